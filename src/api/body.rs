//! Bodies and queries of requests.

use super::answer::Rejected;
use crate::base::limits::HTTP_BODY_BYTES_MAX;
use crate::base::memory::Waiting;
use crate::http::target::percent_decode;
use crate::json;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, StatusCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// The body of a request, whose memory is counted.
pub(super) struct ReadBody {
    pub(super) bytes: Vec<u8>,
    waiting: Waiting,
}

/// Reads the body of a request.
///
/// # Errors
/// Too large, or incomplete.
pub(super) async fn read(request: Request<Incoming>) -> Result<ReadBody, Rejected> {
    let too_large = || Rejected::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 1 MiB");
    let mut body = request.into_body();
    // The head contains the length: a body that is too long need not be read.
    if body.size_hint().lower() > HTTP_BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut read = ReadBody {
        bytes: Vec::new(),
        waiting: Waiting::default(),
    };
    // Copied together: many small chunks would cost many times their bytes.
    while let Some(frame) = body.frame().await {
        let incomplete = "the request body is incomplete";
        let frame = frame.map_err(|_| Rejected::new(StatusCode::BAD_REQUEST, incomplete))?;
        let data = frame.into_data().unwrap_or_default();
        if read.bytes.len() + data.len() > HTTP_BODY_BYTES_MAX {
            return Err(too_large());
        }
        read.bytes.extend_from_slice(&data);
        read.waiting.set(read.bytes.capacity());
    }
    Ok(read)
}

/// The body as a JSON object, nested at most as deep as a client's message.
///
/// # Errors
/// The answer: 400 if it is not JSON, 422 if it is not what is expected.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejected> {
    let bad = |error| Rejected::new(StatusCode::BAD_REQUEST, error);
    let text = str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    // serde_json takes any depth where it only passes the text on.
    json::check(text).map_err(|_| bad("the body is not JSON, or nested too deep"))?;
    let parsed = serde_json::from_str(text).map(|Object(value)| value);
    parsed.map_err(|error| Rejected::invalid(error.to_string()))
}

/// A value that is an object in JSON: serde takes an array for a struct too.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'a, T: Deserialize<'a>> Deserialize<'a> for Object<T> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnlyMap(PhantomData))
    }
}

struct OnlyMap<T>(PhantomData<T>);

impl<'a, T: Deserialize<'a>> Visitor<'a> for OnlyMap<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// The parameters of a query that a route knows; any other is an error, as it may be one mistyped.
///
/// # Errors
/// The answer 422.
pub(super) fn query<const COUNT: usize>(
    query: Option<&str>,
    names: [&str; COUNT],
) -> Result<[Option<String>; COUNT], Rejected> {
    let mut values = [const { None }; COUNT];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let index = names.iter().position(|known| *known == name);
        let Some(index) = index else {
            let names = names.join(", ");
            return Err(Rejected::invalid(format!(
                "unknown parameter; known: {names}"
            )));
        };
        let value = value.replace('+', " ");
        let value =
            percent_decode(&value).ok_or_else(|| Rejected::invalid("a parameter is not UTF-8"))?;
        values[index] = Some(value.into_owned());
    }
    Ok(values)
}

/// A number in a query, from 1 to `max`; without one, `default`.
///
/// # Errors
/// The answer 422.
pub(super) fn number(
    name: &str,
    text: Option<&str>,
    (default, max): (usize, usize),
) -> Result<usize, Rejected> {
    let Some(text) = text else {
        return Ok(default);
    };
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| {
        let reason = format!("`{name}` must be a number from 1 to {max}");
        Rejected::invalid(reason)
    })
}

/// The parts of a path between slashes, decoded.
///
/// # Errors
/// The answer 404: a path that cannot be decoded names nothing.
pub(super) fn segments(path: &str) -> Result<Vec<String>, Rejected> {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let segments = segments.map(|segment| percent_decode(segment).map(|it| it.into_owned()));
    let segments = segments.collect::<Option<_>>();
    segments.ok_or_else(|| Rejected::new(StatusCode::NOT_FOUND, "the path is not UTF-8"))
}
