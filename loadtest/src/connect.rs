//! Setting connections up: TCP, upgrade, token, subscription, one blocking step after the other.
//!
//! Several that are set up together write each step before they read the answers to it, which is
//! what a server sees of clients that return at once.

use crate::{
    dialect::{Awaited, Dialect, Reply, shorten},
    frames::{self, Reader},
    placeholders::SubscriptionId,
    tls::{TlsClient, TlsSession},
    wire,
};
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long any single step of the set-up may take.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// Connections from one source address: below the 28,232 ports of Linux's default range, with room
/// for others.
const CONNECTIONS_PER_SOURCE: u32 = 20_000;
/// Longest response head taken, in bytes.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// RFC 6455 4.1 wants 16 random bytes; a fixed value lets the answer be compared instead of
/// computed each time.
const KEY: &str = "ZmFud2lyZS1sb2FkdGVzdA==";

const EXTENSIONS: &str = "Sec-WebSocket-Extensions";

/// Why a connection could not be set up.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The URL is not of the form ws://host:port/path.
    Url(String),
    /// The URL begins with wss:// and the command has no TLS.
    Tls,
    /// Nobody listens there.
    Rejected(SocketAddr),
    /// All local ports towards the server are taken.
    Ports,
    /// The process has no descriptors left.
    Descriptors,
    /// The server answered the upgrade with another status.
    Status(String),
    /// The server's answer to the upgrade is broken.
    Upgrade(String),
    /// The server rejected the token or the subscription.
    TestSources(String),
    /// The server closed the connection.
    Closed(&'static str),
    /// Nothing came in time.
    Slow(&'static str),
    /// The server broke the frame protocol.
    Fault(frames::Fault),
    /// Something else on the socket.
    Io(&'static str, io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(
                out,
                "`{url}` is not of the form ws://host:port/path or wss://host:port/path"
            ),
            Self::Tls => write!(out, "only fanout, echo, connect and idle have TLS"),
            Self::Rejected(address) => write!(out, "connection refused by {address}"),
            Self::Ports => write!(
                out,
                "not enough ports: all local ports towards the server are taken"
            ),
            Self::Descriptors => write!(out, "not enough descriptors: raise `ulimit -n`"),
            Self::Status(status) => write!(out, "server said {status}"),
            Self::Upgrade(what) => write!(out, "the upgrade failed: {what}"),
            Self::TestSources(message) => write!(out, "server said {message}"),
            Self::Closed(step) => write!(out, "the server closed the connection during {step}"),
            Self::Slow(step) => write!(
                out,
                "no answer within {} s during {step}",
                STEP_PATIENCE.as_secs()
            ),
            Self::Fault(fault) => fault.fmt(out),
            Self::Io(step, error) => write!(out, "{error} during {step}"),
        }
    }
}

/// What to reach.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Resolved address.
    pub(crate) address: SocketAddr,
    /// For `wss://`.
    pub(crate) tls: Option<TlsClient>,
    host: String,
    path: String,
}

impl Target {
    /// Reads a URL and resolves its host.
    ///
    /// # Errors
    /// The URL is malformed or its host unknown.
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let malformed = || ConnectError::Url(url.to_owned());
        let secure = url.strip_prefix("wss://");
        let rest = secure.or_else(|| url.strip_prefix("ws://"));
        let rest = rest.ok_or_else(malformed)?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let address = host
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(malformed)?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let tls = secure.map(|_| TlsClient::new(name)).transpose();
        Ok(Self {
            address,
            tls: tls.map_err(|_| malformed())?,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }

    /// The same for a command that has no TLS.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and a URL with TLS.
    pub(crate) fn parse_without_tls(url: &str) -> Result<Self, ConnectError> {
        let target = Self::parse(url)?;
        match target.tls {
            Some(_) => Err(ConnectError::Tls),
            None => Ok(target),
        }
    }

    /// The same server at another path.
    pub(crate) fn at_path(&self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..self.clone()
        }
    }
}

/// A connection that is set up, and bytes that came after the last awaited answer.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The socket, blocking.
    pub(crate) stream: TcpStream,
    /// Of `wss://`: what is read and written goes through it.
    pub(crate) tls: Option<TlsSession>,
    /// To be parsed before anything that arrives later.
    pub(crate) leftover: Vec<u8>,
    /// The id of its subscription, in dialects that have one.
    pub(crate) id: Option<SubscriptionId>,
    /// Whether the server may compress messages.
    has_deflate: bool,
}

/// Sets connections up, all in the same way.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    target: Target,
    dialect: Dialect,
    token: Option<String>,
    filter_count: u32,
    request: String,
    /// Whether it offers permessage-deflate.
    has_deflate: bool,
    /// Whether the server may then keep its context from message to message.
    takes_context: bool,
    accept: String,
    opened_count: u32,
}

impl Dialer {
    /// A dialer for one server; `token` is shown on every connection if given.
    pub(crate) fn new(target: Target, dialect: Dialect, token: Option<String>) -> Self {
        let Target { host, path, .. } = &target;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        Self {
            target,
            dialect,
            token,
            filter_count: 0,
            request,
            has_deflate: false,
            takes_context: false,
            accept: derive_accept_key(KEY.as_bytes()),
            opened_count: 0,
        }
    }

    /// Subscribes with so many filters in turn.
    pub(crate) fn with_filters(self, filter_count: u32) -> Self {
        Self {
            filter_count,
            ..self
        }
    }

    /// Offers permessage-deflate without context takeover by the server, which must accept that. The client
    /// compresses nothing, so it can keep whatever the server demands of it.
    pub(crate) fn with_deflate(self, is_offered: bool) -> Self {
        let offer = "permessage-deflate; server_no_context_takeover; client_max_window_bits";
        if is_offered {
            self.offering(offer)
        } else {
            self
        }
    }

    /// Offers permessage-deflate with context takeover by the server, whether it uses that or not.
    pub(crate) fn with_deflate_in_context(self) -> Self {
        let offering = self.offering("permessage-deflate; client_max_window_bits");
        Self {
            takes_context: true,
            ..offering
        }
    }

    fn offering(self, extension: &str) -> Self {
        let request = self.request.trim_end();
        Self {
            request: format!("{request}\r\n{EXTENSIONS}: {extension}\r\n\r\n"),
            has_deflate: true,
            ..self
        }
    }

    /// Shows no token.
    pub(crate) fn without_token(self) -> Self {
        Self {
            token: None,
            ..self
        }
    }

    /// Connects, upgrades, and shows the token and subscribes if asked to.
    ///
    /// # Errors
    /// The first step that failed.
    pub(crate) fn open(&mut self, subscribe: bool) -> Result<Dialed, ConnectError> {
        let ready = self.open_together(1, subscribe)?;
        Ok(ready.into_iter().next().expect("one was asked for"))
    }

    /// The same for several connections, all of which are in the same step at any time.
    ///
    /// # Errors
    /// The first step that failed, on any of them.
    pub(crate) fn open_together(
        &mut self,
        count: u32,
        subscribe: bool,
    ) -> Result<Vec<Dialed>, ConnectError> {
        let first = self.opened_count;
        let mut all = (first..first + count)
            .map(|number| self.connect(number))
            .collect::<Result<Vec<_>, _>>()?;
        for dialed in &mut all {
            if let Some(tls) = &mut dialed.tls {
                let completed = tls.complete(&dialed.stream);
                completed.map_err(|error| trouble("TLS handshake", error))?;
            }
        }
        for dialed in &mut all {
            dialed.write("upgrade", self.request.as_bytes())?;
        }
        for dialed in &mut all {
            self.await_upgrade(dialed)?;
        }
        if let Some(token) = &self.token {
            const STEP: &str = "authentication";
            let message = Dialect::authenticate(token);
            for dialed in &mut all {
                dialed.send(STEP, &message)?;
            }
            for dialed in &mut all {
                dialed.await_answer(STEP, self.dialect, Awaited::Authenticated)?;
            }
        }
        if subscribe {
            const STEP: &str = "subscription";
            for (dialed, number) in all.iter_mut().zip(first..) {
                let filter = number.checked_rem(self.filter_count);
                dialed.send(STEP, &self.dialect.subscribe(filter))?;
            }
            for dialed in &mut all {
                dialed.id = dialed.await_answer(STEP, self.dialect, Awaited::Subscribed)?;
            }
        }
        self.opened_count += count;
        Ok(all)
    }

    fn connect(&self, number: u32) -> Result<Dialed, ConnectError> {
        const STEP: &str = "connect";
        let address = self.target.address;
        let connected = match (address, source_of(number)) {
            (SocketAddr::V4(target), Some(source)) if target.ip().is_loopback() => {
                wire::connect_from(source, target, STEP_PATIENCE)
            }
            _ => TcpStream::connect_timeout(&address, STEP_PATIENCE),
        };
        let stream = connected.map_err(|error| match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::ConnectionRefused, _) => ConnectError::Rejected(address),
            (io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse, _) => ConnectError::Ports,
            (_, Some(24 | 23)) => ConnectError::Descriptors, // EMFILE, ENFILE
            (io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _) => ConnectError::Slow(STEP),
            _ => ConnectError::Io(STEP, error),
        })?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(STEP_PATIENCE)))
            .map_err(|error| ConnectError::Io(STEP, error))?;
        let tls = self.target.tls.as_ref();
        let tls = tls.map(|tls| tls.begin(&stream)).transpose();
        let tls = tls.map_err(|error| trouble("TLS handshake", error))?;
        Ok(Dialed {
            stream,
            tls,
            leftover: Vec::new(),
            id: None,
            has_deflate: self.has_deflate,
        })
    }

    fn await_upgrade(&self, dialed: &mut Dialed) -> Result<(), ConnectError> {
        let mut head_bytes = None;
        while head_bytes.is_none() {
            if dialed.leftover.len() > RESPONSE_BYTES_MAX {
                return Err(ConnectError::Upgrade(
                    "the response head has no end".to_owned(),
                ));
            }
            dialed.read("upgrade")?;
            head_bytes = dialed
                .leftover
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .map(|at| at + 4);
        }
        let head: Vec<u8> = dialed
            .leftover
            .drain(..head_bytes.unwrap_or_default())
            .collect();
        let head = String::from_utf8_lossy(&head);
        check_response(&head, &self.accept)?;
        match (self.has_deflate, has_deflate(&head, self.takes_context)) {
            (true, true) => Ok(()),
            (false, _) if header(&head, EXTENSIONS).is_none() => Ok(()),
            (true, false) => Err(ConnectError::Upgrade(
                "the server does not accept permessage-deflate without context takeover".to_owned(),
            )),
            // RFC 6455 4.1.
            (false, _) => Err(ConnectError::Upgrade(
                "the server answered with an extension that was not offered".to_owned(),
            )),
        }
    }
}

/// Where connection number `index` comes from; `None` leaves the choice to the kernel.
fn source_of(index: u32) -> Option<Ipv4Addr> {
    let extra = index / CONNECTIONS_PER_SOURCE;
    let last = u8::try_from(extra + 1).ok().filter(|&last| last < 255)?;
    (extra > 0).then_some(Ipv4Addr::new(127, 0, 0, last))
}

fn check_response(head: &str, accept: &str) -> Result<(), ConnectError> {
    let status_line = head.split("\r\n").next().unwrap_or_default();
    let Some(status) = status_line.strip_prefix("HTTP/1.1 ") else {
        return Err(ConnectError::Upgrade(format!(
            "not HTTP/1.1: {}",
            shorten(status_line.as_bytes())
        )));
    };
    if !status.starts_with("101") {
        return Err(ConnectError::Status(status.trim().to_owned()));
    }
    match header(head, "Sec-WebSocket-Accept") {
        Some(value) if value == accept => Ok(()),
        Some(_) => Err(ConnectError::Upgrade(
            "wrong Sec-WebSocket-Accept".to_owned(),
        )),
        None => Err(ConnectError::Upgrade("no Sec-WebSocket-Accept".to_owned())),
    }
}

/// The value of a header of a response.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1);
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

/// Whether a response accepts permessage-deflate as offered: a server that accepts an offer with
/// `server_no_context_takeover` says so (RFC 7692 7.1.1.1).
fn has_deflate(head: &str, takes_context: bool) -> bool {
    let mut parts = header(head, EXTENSIONS)
        .unwrap_or_default()
        .split(';')
        .map(str::trim);
    parts.next() == Some("permessage-deflate")
        && (takes_context || parts.any(|part| part == "server_no_context_takeover"))
}

impl Dialed {
    /// Sends a request and waits for its answer, which shows that the server has handled all that was
    /// sent before.
    ///
    /// # Errors
    /// The server did not answer, or ended the connection.
    pub(crate) fn ask(&mut self, dialect: Dialect) -> Result<(), ConnectError> {
        const STEP: &str = "a request";
        self.send(STEP, dialect.request())?;
        self.await_answer(STEP, dialect, Awaited::Answer)?;
        Ok(())
    }

    fn send(&mut self, step: &'static str, text: &str) -> Result<(), ConnectError> {
        let mut frame = Vec::with_capacity(text.len() + 14);
        frames::encode_client(frames::TEXT, text.as_bytes(), &mut frame);
        self.write(step, &frame)
    }

    /// Reads until the awaited answer; pings are answered, other messages skipped. Returns the id
    /// that the answer gave.
    fn await_answer(
        &mut self,
        step: &'static str,
        dialect: Dialect,
        awaited: Awaited,
    ) -> Result<Option<SubscriptionId>, ConnectError> {
        loop {
            let mut pongs = Vec::new();
            let (answer, used) = self.scan(step, dialect, awaited, &mut pongs)?;
            self.leftover.drain(..used);
            if !pongs.is_empty() {
                self.write(step, &pongs)?;
            }
            if let Some(id) = answer {
                return Ok(id);
            }
            self.read(step)?;
        }
    }

    /// Looks through the whole frames in `leftover` up to the awaited answer. Returns the id that it
    /// gave, if it was there, and how many bytes are done with.
    fn scan(
        &self,
        step: &'static str,
        dialect: Dialect,
        awaited: Awaited,
        pongs: &mut Vec<u8>,
    ) -> Result<(Option<Option<SubscriptionId>>, usize), ConnectError> {
        let mut reader = Reader::new(self.has_deflate);
        let (mut rest, mut used) = (self.leftover.as_slice(), 0);
        while let Some(frame) = reader.next(&mut rest).map_err(ConnectError::Fault)? {
            match frame.opcode {
                frames::PING => frames::encode_client(frames::PONG, frame.payload, pongs),
                frames::CLOSE => return Err(closing(frame.payload, step)),
                frames::TEXT => match dialect.classify(awaited, frame.payload) {
                    Reply::Awaited(id) => return Ok((Some(id), self.leftover.len() - rest.len())),
                    Reply::Rejected(words) => return Err(ConnectError::TestSources(words)),
                    Reply::Other => {}
                },
                _ => {}
            }
            used = self.leftover.len() - rest.len();
        }
        Ok((None, used))
    }

    fn write(&mut self, step: &'static str, bytes: &[u8]) -> Result<(), ConnectError> {
        let mut encrypted = Vec::new();
        let bytes = match &mut self.tls {
            None => bytes,
            Some(tls) => {
                tls.encrypt(bytes, &mut encrypted);
                &encrypted
            }
        };
        self.stream
            .write_all(bytes)
            .map_err(|error| trouble(step, error))
    }

    fn read(&mut self, step: &'static str) -> Result<(), ConnectError> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ConnectError::Closed(step)),
            Ok(count) => match &mut self.tls {
                None => {
                    self.leftover.extend_from_slice(&chunk[..count]);
                    Ok(())
                }
                Some(tls) => tls
                    .decrypt(&chunk[..count], &mut self.leftover)
                    .map_err(|error| trouble(step, error)),
            },
            Err(error) => Err(trouble(step, error)),
        }
    }
}

/// RFC 6455 5.5.1: a close frame carries a code of two bytes and a reason.
fn closing(payload: &[u8], step: &'static str) -> ConnectError {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            ConnectError::TestSources(format!("close {code} {} during {step}", shorten(reason)))
        }
        _ => ConnectError::Closed(step),
    }
}

fn trouble(step: &'static str, error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ConnectError::Slow(step),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ConnectError::Closed(step),
        _ => ConnectError::Io(step, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let target = Target::parse("ws://127.0.0.1:80/a/b?c").unwrap();
        assert_eq!(
            (target.host.as_str(), target.path.as_str()),
            ("127.0.0.1:80", "/a/b?c")
        );
        assert_eq!(Target::parse("ws://127.0.0.1:80").unwrap().path, "/");
        for broken in [
            "http://127.0.0.1:80/",
            "ws://",
            "ws://127.0.0.1",
            "127.0.0.1:80",
        ] {
            assert!(
                matches!(Target::parse(broken), Err(ConnectError::Url(_))),
                "{broken}"
            );
        }
    }

    #[test]
    fn responses_are_judged_in_the_servers_words() {
        let check = |head: &str| check_response(head, "right").map_err(|error| error.to_string());
        let good = "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: right\r\n\r\n";
        assert_eq!(check(good), Ok(()));
        assert_eq!(
            check("HTTP/1.1 503 Service Unavailable\r\n\r\n"),
            Err("server said 503 Service Unavailable".to_owned())
        );
        assert!(check("HTTP/1.1 101 x\r\nSec-WebSocket-Accept: wrong\r\n\r\n").is_err());
        assert!(check("HTTP/1.1 101 x\r\n\r\n").is_err());
        assert!(check("SSH-2.0\r\n\r\n").is_err());
    }

    #[test]
    fn compression_is_accepted_without_context_takeover() {
        let check = |value: &str| {
            has_deflate(
                &format!("HTTP/1.1 101 x\r\n{EXTENSIONS}: {value}\r\n\r\n"),
                false,
            )
        };
        assert!(check("permessage-deflate; server_no_context_takeover"));
        assert!(check(
            "permessage-deflate; client_no_context_takeover;server_no_context_takeover"
        ));
        assert!(!check("permessage-deflate; client_no_context_takeover"));
        assert!(!check("permessage-deflate"));
        assert!(!check("permessage-bzip2; server_no_context_takeover"));
        let head = format!("HTTP/1.1 101 x\r\n{EXTENSIONS}: permessage-deflate\r\n\r\n");
        assert!(has_deflate(&head, true));
        assert!(!has_deflate("HTTP/1.1 101 x\r\n\r\n", true));
    }

    #[test]
    fn sources_change_before_ports_run_out() {
        assert_eq!(source_of(0), None);
        assert_eq!(source_of(CONNECTIONS_PER_SOURCE - 1), None);
        assert_eq!(
            source_of(CONNECTIONS_PER_SOURCE),
            Some(Ipv4Addr::new(127, 0, 0, 2))
        );
        assert_eq!(
            source_of(2 * CONNECTIONS_PER_SOURCE),
            Some(Ipv4Addr::new(127, 0, 0, 3))
        );
    }

    #[test]
    fn a_refused_connection_says_so() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut dialer = Dialer::new(
            Target::parse(&format!("ws://{free}/")).unwrap(),
            Dialect::Verbatim,
            None,
        );
        assert!(
            matches!(dialer.open(false), Err(ConnectError::Rejected(address)) if address == free)
        );
        dialer.opened_count = CONNECTIONS_PER_SOURCE;
        assert!(
            matches!(dialer.open(false), Err(ConnectError::Rejected(address)) if address == free)
        );
    }
}
