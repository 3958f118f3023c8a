//! A server of this process, and clients by two hands: a raw one that may break every rule, and
//! async-tungstenite, which keeps them.

use async_io::Async;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use fanwire::auth::{Grant, issue};
use fanwire::base::now::Clock;
use fanwire::{Builder, DialectId, Listener, ShardCount};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use futures_lite::{StreamExt, future};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const SECRET: &str = "a secret of the tests, of more than thirty-two bytes";
/// Longest wait for anything; a machine under load gets its time.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A server that drains when dropped.
pub(crate) struct Server {
    server: fanwire::Server,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// A server of two shards in development mode.
    pub(crate) fn dev() -> Self {
        Self::with(Builder::dev)
    }

    /// A server of two shards that requires tokens.
    pub(crate) fn secured() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = fanwire::Server::builder()
            .listen(([127, 0, 0, 1], 0).into())
            .shards(ShardCount::Fixed(2))
            .jwt_secret(SECRET);
        Self::of(change(builder))
    }

    /// A server in development mode with a listener for each of these dialects, or one for all.
    pub(crate) fn listening(dialects: impl IntoIterator<Item = Option<DialectId>>) -> Self {
        let address = ([127, 0, 0, 1], 0).into();
        let listeners = dialects.into_iter().map(|dialect| match dialect {
            Some(dialect) => Listener::of(dialect, address),
            None => Listener::by_path(address),
        });
        let builder = fanwire::Server::builder().dev().jwt_secret(SECRET);
        Self::of(builder.shards(ShardCount::Fixed(2)).listeners(listeners))
    }

    /// The server of a builder that has listeners.
    pub(crate) fn of(builder: Builder) -> Self {
        let server = builder.start().unwrap();
        let address = server.addresses()[0];
        Self { server, address }
    }

    /// The server, as a program that embeds it has it.
    pub(crate) fn program(&self) -> &fanwire::Server {
        &self.server
    }

    /// The address of the listener of that index.
    pub(crate) fn address_of(&self, listener: usize) -> SocketAddr {
        self.server.addresses()[listener]
    }

    /// The sum of a metric's series over shards; `series` is its name with labels up to the shard's.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.server.prometheus_metrics();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            name.starts_with(series)
                .then(|| value.parse::<u64>().unwrap())
        });
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "no series {series} in\n{text}");
        values.iter().sum()
    }

    /// Waits until a metric has a value.
    pub(crate) fn await_metric(&self, series: &str, expected: u64) {
        self.await_metric_in(series, expected..=expected);
    }

    /// Waits until a metric has a value in a range.
    pub(crate) fn await_metric_in(&self, series: &str, expected: RangeInclusive<u64>) {
        let mut value = 0;
        for _ in 0..2_000 {
            value = self.metric(series);
            if expected.contains(&value) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{series} is {value}, not in {expected:?}");
    }

    /// Stops the server without waiting for its sessions.
    pub(crate) fn drain(&self) {
        let server = self.server.clone();
        std::thread::spawn(move || future::block_on(server.stop()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain();
    }
}

pub(crate) fn token(user: &str, permissions: &[&str]) -> String {
    let permissions = permissions.iter();
    let grant = permissions.fold(Grant::new(user), |grant, name| grant.with_permission(name));
    issue(&grant, SECRET.as_bytes(), 3_600, Clock::start().now()).unwrap()
}

/// Status and body of an answer.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"),
    )
}

pub(crate) fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    // No further request comes, so the answer ends the connection.
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or_default(), body.to_owned())
}

/// A client that writes bytes as it is told.
pub(crate) struct Raw {
    socket: TcpStream,
    received: Vec<u8>,
    /// Of a client that compresses: what it has asked for.
    window_bits: Option<u8>,
    /// How many compressed messages it has received.
    pub(crate) compressed_count: u32,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    /// The payload of a compressed text, for a client that does not inflate.
    Compressed(Vec<u8>),
    Binary(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
    /// The server has ended the connection.
    End,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            received: Vec::new(),
            window_bits: None,
            compressed_count: 0,
        }
    }

    /// A client that has been upgraded at `target`, with further header lines.
    pub(crate) fn open(address: SocketAddr, target: &str, headers: &str) -> Self {
        let mut raw = Self::connect(address);
        raw.write(upgrade_request(target, headers).as_bytes());
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        raw
    }

    /// The same of a client that compresses everything, and has asked the server for a window of so
    /// many bits.
    pub(crate) fn compressing(
        address: SocketAddr,
        target: &str,
        headers: &str,
        window_bits: u8,
    ) -> Self {
        let mut raw = Self::connect(address);
        let offer = format!("permessage-deflate; server_max_window_bits={window_bits}");
        let headers = format!("{headers}Sec-WebSocket-Extensions: {offer}\r\n");
        raw.write(upgrade_request(target, &headers).as_bytes());
        let head = raw.read_head();
        let answer = format!(
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover; server_max_window_bits={window_bits}\r\n"
        );
        assert!(head.contains(&answer), "{head}");
        raw.window_bits = Some(window_bits);
        raw
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Whether the peer still takes bytes.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, text: &str) {
        match self.window_bits {
            None => self.write(&frame_bytes(0x81, text.as_bytes())),
            Some(_) => self.write(&frame_bytes(0xc1, &deflate(text.as_bytes()))),
        }
    }

    /// Ends with a reset, so that no port waits for the rest of the connection.
    pub(crate) fn reset_when_dropped(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn shut_down_write(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16_384];
        match self.socket.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            // The server's threads live in this process and their rings interrupt system calls.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => panic!("waiting for the server: {error}"),
        }
    }

    pub(crate) fn read_head(&mut self) -> String {
        loop {
            let end = self
                .received
                .windows(4)
                .position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                let head = self.received.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.fill(), "the server ended before the head did");
        }
    }

    /// The next HTTP answer, whose length its head says: head and body.
    pub(crate) fn read_http(&mut self) -> String {
        let head = self.read_head();
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.fill(), "the server ended before the body did");
        }
        let body = self.received.drain(..length).collect();
        head + &String::from_utf8(body).unwrap()
    }

    /// Writes for at most this long; whether something is left.
    pub(crate) fn write_for(&mut self, bytes: &[u8], time: Duration) -> bool {
        self.socket.set_write_timeout(Some(time)).unwrap();
        let mut written = 0;
        while written < bytes.len() {
            match self.socket.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// The next frame; a close frame is answered, as RFC 6455 5.5.1 asks, if the socket still is
    /// there.
    pub(crate) fn read(&mut self) -> Frame {
        let frame = self.read_silently();
        if matches!(frame, Frame::Close(..)) {
            let _ = self.socket.write_all(&frame_bytes(0x88, &[3, 232]));
        }
        frame
    }

    /// The next frame; nothing is answered.
    pub(crate) fn read_silently(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.parse() {
                return frame;
            }
            if !self.fill() {
                return Frame::End;
            }
        }
    }

    pub(crate) fn read_text(&mut self) -> String {
        match self.read() {
            Frame::Text(text) => text,
            other => panic!("a text was expected, not {other:?}"),
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let bytes = &self.received;
        let (start, length) = match *bytes.get(1)? {
            126 => (
                4,
                u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()).into(),
            ),
            127 => (
                10,
                u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()),
            ),
            length => (2, length.into()),
        };
        let end = start + usize::try_from(length).unwrap();
        let payload = bytes.get(start..end)?.to_vec();
        let first = bytes[0];
        self.received.drain(..end);
        Some(match first {
            0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
            0xc1 => {
                self.compressed_count += 1;
                match self.window_bits {
                    None => Frame::Compressed(payload),
                    Some(bits) => Frame::Text(String::from_utf8(inflate(&payload, bits)).unwrap()),
                }
            }
            0x82 => Frame::Binary(payload),
            0x88 if payload.is_empty() => Frame::Close(1005, String::new()),
            0x88 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                Frame::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap())
            }
            0x89 => Frame::Ping,
            0x8a => Frame::Pong(payload),
            first => panic!("a frame that begins with {first:#x}"),
        })
    }
}

pub(crate) fn upgrade_request(target: &str, headers: &str) -> String {
    let host = if headers.starts_with("Host:") {
        ""
    } else {
        "Host: t\r\n"
    };
    format!(
        "GET {target} HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}

/// The compressed payload of a message.
pub(crate) fn deflate(text: &[u8]) -> Vec<u8> {
    let mut compressor = Compress::new(Compression::default(), false);
    let mut payload = Vec::with_capacity(text.len() + 100);
    let flushed = compressor.compress_vec(text, &mut payload, FlushCompress::Sync);
    flushed.unwrap();
    assert!(payload.ends_with(&[0, 0, 0xff, 0xff]));
    payload.truncate(payload.len() - 4);
    payload
}

/// The text of a compressed payload, read with a window of so many bits and with little room, so that
/// what is farther back is nowhere.
pub(crate) fn inflate(payload: &[u8], window_bits: u8) -> Vec<u8> {
    let mut stream = Decompress::new_with_window_bits(false, window_bits);
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    let (mut text, mut room) = (Vec::new(), [0; 100]);
    loop {
        let (read, written) = (stream.total_in(), stream.total_out());
        let rest = &whole[usize::try_from(read).unwrap()..];
        let inflated = stream.decompress(rest, &mut room, FlushDecompress::Sync);
        inflated.unwrap();
        let written = usize::try_from(stream.total_out() - written).unwrap();
        text.extend_from_slice(&room[..written]);
        if written == 0 && read == stream.total_in() {
            assert_eq!(read, whole.len() as u64);
            return text;
        }
    }
}

/// A masked frame that begins with `first`.
pub(crate) fn frame_bytes(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0xff);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

/// A client by another hand.
pub(crate) struct Client {
    stream: WebSocketStream<Async<TcpStream>>,
}

impl Client {
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let url = format!("ws://{address}{path}");
        future::block_on(async {
            let socket = Async::<TcpStream>::connect(address).await.unwrap();
            let (stream, _) = async_tungstenite::client_async(url, socket).await.unwrap();
            Self { stream }
        })
    }

    /// A client of the gateway dialect that has subscribed.
    pub(crate) fn subscribed(address: SocketAddr, channel: &str) -> Self {
        let mut client = Self::open(address, "/ws");
        client.send(&format!(
            r#"{{"type":"subscribe","data":{{"channel":"{channel}"}}}}"#
        ));
        let answer = client.receive();
        // A position may follow.
        let expected = format!(r#"{{"type":"subscribed","data":{{"channel":"{channel}""#);
        assert!(answer.starts_with(&expected), "{answer}");
        client
    }

    pub(crate) fn send(&mut self, text: &str) {
        future::block_on(self.stream.send(Message::text(text))).unwrap();
    }

    pub(crate) fn publish(&mut self, channel: &str, data: &str) {
        self.send(&format!(
            r#"{{"type":"publish","data":{{"channel":"{channel}","type":"m","data":{data}}}}}"#
        ));
    }

    /// The next text.
    pub(crate) fn receive(&mut self) -> String {
        loop {
            match self.next() {
                Some(Message::Text(text)) => return text.to_string(),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("a text was expected, not {other:?}"),
            }
        }
    }

    /// The next message of any kind; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Message> {
        let message = future::or(async { Some(self.stream.next().await) }, async {
            async_io::Timer::after(PATIENCE).await;
            None
        });
        let message = future::block_on(message).expect("the server keeps us waiting");
        message.transpose().ok().flatten()
    }
}

/// An embedding program's server with this file of settings, which is written below the tests' own
/// folder.
pub(crate) fn configured(
    name: &str,
    settings: &str,
    change: impl FnOnce(Builder) -> Builder,
) -> fanwire::Server {
    let mut file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    file.push(format!("{name}.toml"));
    std::fs::write(&file, settings).unwrap();
    let builder = fanwire::Server::builder()
        .config_file(file)
        .listen(([127, 0, 0, 1], 0).into());
    change(builder).start().unwrap()
}
