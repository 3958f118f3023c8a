//! Looks at what is published in a running server on this host, without its doing: the ring between its shards
//! is in a memfd that others can map for reading, and an observer leaves no trace in it.

use crate::shard::{Tap, Tapped, TappedData};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanwire_ring::shared::SharedRing;
use fanwire_ring::{ObserveError, Start};
use serde_json::{Value, json, value::RawValue};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the memfd in which a server of this version has its ring. Records have no version of their own.
pub const RING_NAME: &str = concat!("fanwire-ring-", env!("CARGO_PKG_VERSION"));
/// What the names of all versions begin with, as `/proc` shows them.
const LINK: &str = "/memfd:fanwire-ring-";
/// Time until an observer that has seen all looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What is to be seen.
#[derive(Clone, Debug, Default)]
pub struct TapOptions {
    /// The server's process; without it, the only one that there is.
    pub process_id: Option<u32>,
    /// The channels; all if there are none. `*` at the end stands for any rest.
    pub channels: Vec<String>,
    /// Whether to begin with the oldest publication that is still in the ring.
    pub from_oldest: bool,
}

/// Why nothing can be seen.
#[derive(Debug)]
#[non_exhaustive]
pub enum TapError {
    /// There is no server, or none that this user may look at.
    NoServer,
    /// There are several: their processes.
    Several(Vec<u32>),
    /// The server has another version, of which this is the name.
    Version(String),
    /// The ring cannot be attached to.
    Attach(String),
    /// The caller has had enough.
    Output(std::io::Error),
}

impl fmt::Display for TapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => formatter.write_str(
                "no running server found: run it as the server's user, or as root, on the same host",
            ),
            Self::Several(processes) => {
                write!(formatter, "several servers are running, choose one with --pid: {processes:?}")
            }
            Self::Version(found) => write!(
                formatter,
                "the server is of another version: {found}, expected {RING_NAME}"
            ),
            Self::Attach(error) => write!(formatter, "cannot attach to the ring: {error}"),
            Self::Output(error) => write!(formatter, "cannot write: {error}"),
        }
    }
}

impl std::error::Error for TapError {}

impl From<std::io::Error> for TapError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A publication, as a JSON object.
    Publication(String),
    /// So many records were overwritten before they were looked at.
    Missed(u64),
}

/// Shows what is published to `show`, until that returns false or the server ends.
///
/// # Errors
/// [`TapError`]
pub fn tap(
    options: &TapOptions,
    mut show: impl FnMut(Seen) -> std::io::Result<bool>,
) -> Result<(), TapError> {
    let (process_id, ring) = find(options.process_id)?;
    let attach = |error: &dyn fmt::Display| TapError::Attach(error.to_string());
    let start = match options.from_oldest {
        true => Start::Oldest,
        false => Start::Tail,
    };
    let observer = ring.ring().observer(start);
    let mut observer = observer.map_err(|error| attach(&error))?;
    let mut pieces = Tap::default();
    loop {
        let position = match observer.next() {
            Ok(Some(record)) => record.position,
            Ok(None) => {
                if !Path::new(&format!("/proc/{process_id}")).exists() {
                    return Ok(());
                }
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
            Err(ObserveError::Missed { records, .. }) => {
                pieces.miss();
                if !show(Seen::Missed(records))? {
                    return Ok(());
                }
                continue;
            }
            Err(error) => return Err(attach(&error)),
        };
        // Overwritten meanwhile: the next look says so.
        let payload = observer.payload().map_err(|error| attach(&error))?;
        let line = payload.and_then(|payload| {
            let whole = pieces.whole(payload)?;
            let tapped = Tapped::read(&whole)?;
            is_wanted(&options.channels, tapped.channel).then(|| line(&tapped, position))
        });
        if let Some(line) = line
            && !show(Seen::Publication(line))?
        {
            return Ok(());
        }
        observer.advance();
    }
}

fn is_wanted(channels: &[String], channel: &str) -> bool {
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => channel.starts_with(start),
        None => pattern == channel,
    };
    channels.is_empty() || channels.iter().any(matches)
}

/// A publication as a JSON object; what it does not have is left out.
fn line(tapped: &Tapped<'_>, position: u64) -> String {
    let mut fields: Vec<(&str, Value)> = vec![
        ("position", position.into()),
        ("unix_ms", tapped.unix_ms.into()),
        ("channel", tapped.channel.into()),
        ("type", tapped.kind.into()),
    ];
    if let Some(tenant) = tapped.tenant {
        fields.push(("tenant", tenant.into()));
    }
    if tapped.is_for_all_tenants {
        fields.push(("all_tenants", true.into()));
    }
    if let Some((whose, name)) = tapped.target {
        fields.push((whose, name.into()));
    }
    let variants = tapped.variants.iter();
    let variants = variants.map(|(dialect, is_compressed)| match is_compressed {
        true => format!("{dialect}, compressed"),
        false => (*dialect).to_owned(),
    });
    fields.push(("encoded_for", json!(variants.collect::<Vec<_>>())));
    let fields = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"));
    let mut line = fields.collect::<Vec<_>>().join(",");
    match tapped.data {
        // As it was published, in one line.
        TappedData::Json(json) => {
            let value = serde_json::from_str::<&RawValue>(json);
            let text = value
                .map_or("null", RawValue::get)
                .replace(['\n', '\r'], " ");
            line.push_str(&format!(",\"data\":{text}"));
        }
        TappedData::Binary(bytes) => {
            line.push_str(&format!(",\"data_base64\":\"{}\"", STANDARD.encode(bytes)));
        }
    }
    format!("{{{line}}}")
}

/// The server's process, and its ring.
fn find(wanted: Option<u32>) -> Result<(u32, SharedRing), TapError> {
    let found: Vec<_> = match wanted {
        Some(process_id) => rings_of(process_id),
        None => {
            let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
            let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            let own = std::process::id();
            numbers.filter(|it| *it != own).flat_map(rings_of).collect()
        }
    };
    // Others may have files of any name.
    let (same, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(.., name)| name == RING_NAME);
    let attached = same.into_iter().filter_map(|(process_id, path, _)| {
        let ring = SharedRing::from_fd(OwnedFd::from(File::open(path).ok()?));
        ring.ok().map(|ring| (process_id, ring))
    });
    // A program may embed several servers: the first one is meant.
    let mut rings: BTreeMap<u32, SharedRing> = BTreeMap::new();
    for (process_id, ring) in attached {
        rings.entry(process_id).or_insert(ring);
    }
    let processes: Vec<_> = rings.keys().copied().collect();
    match (rings.pop_first(), others.first()) {
        (Some(ring), _) if processes.len() == 1 => Ok(ring),
        (Some(_), _) => Err(TapError::Several(processes)),
        (None, Some((.., name))) => Err(TapError::Version(name.escape_debug().to_string())),
        (None, None) => Err(TapError::NoServer),
    }
}

/// The rings of a process, with the names of their files. Empty for processes that this user may not look at.
fn rings_of(process_id: u32) -> Vec<(u32, PathBuf, String)> {
    let descriptors = fs::read_dir(format!("/proc/{process_id}/fd"));
    let descriptors = descriptors.into_iter().flatten().flatten();
    let found = descriptors.filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let name = link.to_str()?.strip_prefix("/memfd:")?;
        let name = name.split(' ').next()?.to_owned();
        let is_ring = link.to_str()?.starts_with(LINK);
        is_ring.then(|| (process_id, entry.path(), name))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_wanted_by_name_or_beginning() {
        let patterns = ["news".to_owned(), "room:*".to_owned()];
        for (channel, expected) in [("news", true), ("newsroom", false), ("room:a", true)] {
            assert_eq!(is_wanted(&patterns, channel), expected, "{channel}");
        }
        assert!(is_wanted(&[], "any"));
    }

    #[test]
    fn a_publication_is_one_line_of_json() {
        let mut tapped = Tapped {
            channel: "news",
            tenant: Some("acme"),
            is_for_all_tenants: false,
            kind: "m",
            data: TappedData::Json("{\"a\":\n[1.50]}"),
            target: Some(("user", "ann")),
            unix_ms: 5,
            variants: vec![("gateway", false), ("analytics", true)],
        };
        let expected = r#"{"position":96,"unix_ms":5,"channel":"news","type":"m","tenant":"acme","user":"ann","encoded_for":["gateway","analytics, compressed"],"data":{"a": [1.50]}}"#;
        assert_eq!(line(&tapped, 96), expected);
        tapped.data = TappedData::Binary(&[0, 255]);
        assert!(line(&tapped, 96).ends_with(r#","data_base64":"AP8="}"#));
    }
}
