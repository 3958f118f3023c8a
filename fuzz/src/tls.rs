//! What a peer sends to a listener with TLS, up to the plaintext that a shard gets.
//!
//! The first byte of an input says how the connection begins:
//!
//! ```text
//! bit 0     the client speaks TLS 1.2, not 1.3
//! bit 1     the listener expects a header of the PROXY protocol
//! bits 2-4  what comes ahead of TLS: nothing, or a header of any kind
//! bit 5     the client resumes a session
//! bit 6     the client's records are small, so that messages of the handshake are in several
//! bit 7     there is no client: the rest of the input is what the listener receives, after one byte that
//!           says how it is cut and how often it comes
//! ```
//!
//! What follows for a client is pairs of bytes: an act, and its number.
//!
//! ```text
//! 0  N bytes of the input are said           8  a bit of what is on the way changes
//! 1  N + 1 KiB are said                      9  a record on the way comes twice
//! 2  all is received, in pieces by N        10  the end of a record on the way is cut off
//! 3  one piece is received                  11  two records on the way change places
//! 4  the event loop handles handshakes      12  N bytes of the input come between records
//! 5  the server says N times 256 bytes      13  the client has new keys (TLS 1.3)
//! 6  the kernel takes N + 1 bytes           14  the client ends its stream by close_notify
//! 7  the server ends its stream             15  the socket ends; what is on the way is lost
//! ```
//!
//! Whatever comes, nothing panics, and each side reads a beginning of what the other side has said: all of
//! it, if nothing was damaged. Without a client, all ways of cutting have the same result. Keys and nonces
//! are random, so an input that damages what depends on them may do another thing each time.

use super::input::{chooser, expanded};
use fanwire::base::memory::waiting_bytes;
use fanwire::base::{ConnectionId, Now};
use fanwire::http::proxy_protocol::{self, ProxyHeader};
use fanwire::net::tls::{Certificates, Sent, TlsError, TlsStream};
use fanwire::net::wire::{Ahead, SecureConnections};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind};
use rustls::{ServerConfig, SignatureScheme};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, OnceLock};

/// Bytes that are received at once, as by the server's own buffers.
const PIECE_BYTES_MAX: usize = 4_096;
/// Bytes that either side says at most.
const SAID_BYTES_MAX: usize = 1 << 20;
/// Exchanges until nothing is on the way. A handshake has three, and each send of the server adds one.
const EXCHANGES_MAX: u32 = 100;
/// Pieces of a size that the input chooses: a million of single bytes would take seconds.
const PIECES_MAX: u32 = 5_000;
/// rustls takes 32 in a row.
const KEY_UPDATES_MAX: u32 = 20;
const ID: ConnectionId = ConnectionId::new(0, 1);
/// A record's type, version and length.
const RECORD_HEADER_BYTES: usize = 5;

/// Plays what the input says.
pub fn talk(input: &[u8]) {
    match input {
        [mode, cuts, bytes @ ..] if mode & 0x80 != 0 => receive_anything(*mode, *cuts, bytes),
        [mode, acts @ ..] if mode & 0x80 == 0 => {
            let client_config = client_config(*mode);
            let is_resumption = mode & 0x20 != 0;
            if is_resumption {
                // The client gets its ticket.
                Talk::new(mode & 0x41, &client_config, false).play(&[]);
            }
            Talk::new(*mode, &client_config, is_resumption).play(acts);
        }
        _ => {}
    }
    assert_eq!(waiting_bytes(), 0, "bytes of no connection are counted");
}

fn server_config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let certificates = Certificates::self_signed(Now::at(0, 1_700_000_000_000));
        let certificates = certificates.expect("a certificate can be made");
        let config = certificates.config(&[&TLS12, &TLS13], None, false);
        config.expect("there are cipher suites")
    });
    Arc::clone(config)
}

fn client_config(mode: u8) -> Arc<ClientConfig> {
    static CONFIG: OnceLock<[ClientConfig; 2]> = OnceLock::new();
    let configs = CONFIG.get_or_init(|| {
        [&TLS13, &TLS12].map(|version| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_protocol_versions(&[version]);
            let builder = builder.expect("the version has cipher suites").dangerous();
            let builder = builder.with_custom_certificate_verifier(Arc::new(AnyCertificate));
            builder.with_no_client_auth()
        })
    });
    let mut config = configs[usize::from(mode & 1)].clone();
    // What one input leaves is nothing to the next one.
    config.resumption = Resumption::in_memory_sessions(4);
    config.max_fragment_size = (mode & 0x40 != 0).then_some(64);
    Arc::new(config)
}

/// What comes ahead of TLS, and whether it is a valid header.
fn ahead(mode: u8) -> (Vec<u8>, bool) {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const ADDRESSES: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0, 1, 0, 2];
    match mode >> 2 & 7 {
        1 => (b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), true),
        2 => (b"PROXY UNKNOWN\r\n".to_vec(), true),
        3 => ([V2, b"\x21\x11\0\x0c", ADDRESSES].concat(), true),
        4 => ([V2, b"\x20\0\0\0"].concat(), true),
        // A TLV of 200 bytes (2.2.7): of any content.
        5 => {
            let tlv = [b"\xe0\0\xc8".as_slice(), &[0x16; 200]].concat();
            ([V2, b"\x21\x11\0\xd7", ADDRESSES, &tlv].concat(), true)
        }
        6 => (b"PROXY TCP4 192.0.2.1\r\n".to_vec(), false),
        7 => ([V2, b"\x31\x11\0\x0c", ADDRESSES].concat(), false),
        _ => (Vec::new(), true),
    }
}

/// What a listener has made of what it received.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    header: Vec<u8>,
    plaintext: Vec<u8>,
    has_ended: bool,
    error: Option<String>,
}

/// The server's side of one connection.
struct Server {
    secure: SecureConnections,
    found: Found,
    has_begun: bool,
    is_over: bool,
}

impl Server {
    fn new(has_proxy_header: bool) -> Self {
        let mut secure = SecureConnections::new(vec![None, Some(server_config())]);
        let begun = secure.begin(ID, 1, has_proxy_header);
        begun.expect("the configuration has cipher suites");
        Self {
            secure,
            found: Found::default(),
            has_begun: false,
            is_over: false,
        }
    }

    /// As the event loop does with what a receive has brought.
    fn receive(&mut self, piece: &[u8]) {
        let mut piece = piece.to_vec();
        if self.is_over {
            return;
        }
        match self.secure.receive_ahead(ID, &piece) {
            None => self.receive_records(&mut piece),
            Some(Ahead::Incomplete) => {}
            Some(Ahead::Absent(mut records)) => self.receive_records(&mut records),
            Some(Ahead::Header(header, mut records)) => {
                self.is_over = proxy_protocol::read(&header) == ProxyHeader::Malformed;
                if self.is_over {
                    // The shard ends the connection; whatever came with the header is of no interest.
                    self.found.error = Some("a malformed header".to_owned());
                } else {
                    self.found.header = header;
                }
                if !records.is_empty() {
                    assert!(!self.is_over, "records behind a malformed header");
                    self.receive_records(&mut records);
                }
            }
        }
    }

    fn receive_records(&mut self, records: &mut [u8]) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let is_http = is_first && records[0].is_ascii_uppercase();
        let result = self.secure.receive(ID, records);
        let result = result.expect("the listener has TLS");
        if is_first {
            let is_answered = matches!(result, Err(TlsError::PlainHttp));
            assert_eq!(is_http, is_answered, "HTTP without TLS is answered");
            assert!(!is_http || self.stream().begin_send().starts_with(b"HTTP/1.1 400 "));
        }
        self.take(result);
    }

    /// As a turn of the event loop does.
    fn process_handshakes(&mut self) {
        while let Some((id, result)) = self.secure.process_handshake() {
            assert_eq!(id, ID);
            self.take(result);
        }
    }

    fn take(&mut self, result: Result<bool, TlsError>) {
        let plaintext = self.secure.plaintext();
        let had_failed = self.found.error.is_some();
        assert!(
            !had_failed || plaintext.is_empty(),
            "plaintext after an error"
        );
        self.found.plaintext.extend_from_slice(plaintext);
        match result {
            Ok(has_ended) => self.found.has_ended |= has_ended,
            Err(error) => {
                assert!(!had_failed, "a second error");
                self.found.error = Some(format!("{error:?}"));
            }
        }
        assert!(self.stream().has_room_for(0), "more waits than may");
    }

    fn stream(&mut self) -> &mut TlsStream {
        self.secure.stream(ID).expect("it began")
    }
}

/// A listener receives bytes of the input, cut in several ways.
fn receive_anything(mode: u8, cuts: u8, bytes: &[u8]) {
    let (ahead, _) = ahead(mode);
    let bytes = [ahead, bytes.repeat(1 + usize::from(cuts >> 5) * 4)].concat();
    let found = |piece_bytes: &mut dyn FnMut() -> usize, has_turns: bool| {
        let mut server = Server::new(mode & 2 != 0);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece_bytes().min(rest.len()));
            server.receive(now);
            if has_turns {
                server.process_handshakes();
            }
            rest = later;
        }
        server.process_handshakes();
        server.found
    };
    let whole = found(&mut || PIECE_BYTES_MAX, false);
    assert!(whole.plaintext.is_empty(), "plaintext without a client");
    let choices = expanded(u64::from(cuts), 256);
    let mut choose = chooser(&choices);
    let mut piece_bytes = || 1 + choose(700);
    assert_eq!(found(&mut piece_bytes, true), whole, "cut");
    if bytes.len() <= PIECE_BYTES_MAX {
        assert_eq!(found(&mut || 1, cuts & 1 != 0), whole, "in single bytes");
    }
}

/// A client and a server.
struct Talk {
    server: Server,
    client: ClientConnection,
    /// Records of the client on their way.
    on_the_way: VecDeque<Vec<u8>>,
    client_said: Vec<u8>,
    client_heard: Vec<u8>,
    has_client_ended: bool,
    has_client_failed: bool,
    server_said: Vec<u8>,
    has_server_ended: bool,
    /// The server's handshake was seen to be done, and was so when the server ended its stream.
    has_opened: bool,
    has_notified: bool,
    /// The client has read that the server has ended its stream.
    is_notified: bool,
    /// Bytes of the server's send that the kernel has not taken.
    unsent: usize,
    /// Nothing came but what the client has sent, in this order.
    is_undamaged: bool,
    is_socket_open: bool,
    is_resumption: bool,
    key_updates: u32,
    pieces: u32,
}

impl Talk {
    fn new(mode: u8, config: &Arc<ClientConfig>, is_resumption: bool) -> Self {
        let (ahead, is_valid) = ahead(mode);
        let has_proxy_header = mode & 2 != 0;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
        client.set_buffer_limit(None);
        let is_ahead = !ahead.is_empty();
        Self {
            server: Server::new(has_proxy_header),
            client,
            on_the_way: VecDeque::from_iter(is_ahead.then_some(ahead)),
            client_said: Vec::new(),
            client_heard: Vec::new(),
            has_client_ended: false,
            has_client_failed: false,
            server_said: Vec::new(),
            has_server_ended: false,
            has_opened: false,
            has_notified: false,
            is_notified: false,
            unsent: 0,
            is_undamaged: !is_ahead || (has_proxy_header && is_valid),
            is_socket_open: true,
            is_resumption,
            key_updates: 0,
            pieces: 0,
        }
    }

    fn play(mut self, mut acts: &[u8]) {
        while let [act, number, rest @ ..] = acts {
            acts = rest;
            let count = usize::from(*number);
            match act % 16 {
                0 | 12 => {
                    let (bytes, rest) = acts.split_at(count.min(acts.len()));
                    acts = rest;
                    match act % 16 {
                        0 => self.say(bytes),
                        _ => self.interject(bytes),
                    }
                }
                1 => self.say(&said((count + 1) * 1_024, self.client_said.len())),
                2 => {
                    while self.receive_piece(1 + (count >> 1) * 8) {
                        if count & 1 != 0 {
                            self.server.process_handshakes();
                        }
                    }
                }
                3 => {
                    self.receive_piece(1 + count * 8);
                }
                4 => self.server.process_handshakes(),
                5 => self.answer(count * 256),
                6 => self.send_answer(count + 1),
                7 => self.end_server(),
                8..=11 => self.damage(act % 16, count),
                13 => self.update_keys(),
                14 => self.end_client(),
                _ => {
                    self.is_undamaged &= self.on_the_way.is_empty() && !self.client.wants_write();
                    self.is_socket_open = false;
                }
            }
            self.collect();
            self.has_opened |= self.server.stream().takes_plaintext();
        }
        self.finish();
    }

    fn say(&mut self, bytes: &[u8]) {
        let has_room = self.client_said.len() + bytes.len() <= SAID_BYTES_MAX;
        if has_room && !self.has_client_ended && !self.has_client_failed && self.is_socket_open {
            let written = self.client.writer().write_all(bytes);
            written.expect("it has no limit");
            self.client_said.extend_from_slice(bytes);
        }
    }

    /// Takes what the client has to send, by records.
    fn collect(&mut self) {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            let written = self.client.write_tls(&mut bytes);
            written.expect("a vector takes all");
        }
        if !self.is_socket_open {
            return;
        }
        let mut rest = &bytes[..];
        while let [_, _, _, high, low, ..] = rest {
            let length = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
            let (record, later) = rest.split_at(length);
            self.on_the_way.push_back(record.to_vec());
            rest = later;
        }
        assert!(rest.is_empty(), "the client sends whole records");
    }

    /// The server receives one piece; false if nothing is on the way.
    fn receive_piece(&mut self, length: usize) -> bool {
        self.collect();
        self.pieces += 1;
        let length = if self.pieces > PIECES_MAX {
            PIECE_BYTES_MAX
        } else {
            length
        };
        let mut piece = Vec::new();
        while let Some(record) = self.on_the_way.front_mut()
            && piece.len() < length
        {
            let most = record.len().min(length - piece.len());
            piece.extend(record.drain(..most));
            if record.is_empty() {
                self.on_the_way.pop_front();
            }
        }
        if !piece.is_empty() {
            self.server.receive(&piece);
        }
        !piece.is_empty()
    }

    fn interject(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && self.is_socket_open {
            self.is_undamaged = false;
            self.on_the_way.push_back(bytes.to_vec());
        }
    }

    fn damage(&mut self, act: u8, count: usize) {
        self.collect();
        let records = self.on_the_way.len();
        if records == 0 {
            return;
        }
        let index = count % records;
        match act {
            8 => {
                let record = &mut self.on_the_way[index];
                let bit = count * 37 % (record.len() * 8);
                record[bit / 8] ^= 1 << (bit % 8);
            }
            9 => {
                let record = self.on_the_way[index].clone();
                self.on_the_way.insert(index, record);
            }
            10 => {
                let record = &mut self.on_the_way[index];
                record.truncate(count * 8 % record.len());
                if record.is_empty() {
                    self.on_the_way.remove(index);
                }
            }
            _ => self.on_the_way.swap(index, 0),
        }
        self.is_undamaged = false;
    }

    /// As the event loop does when a shard has something to send.
    fn answer(&mut self, length: usize) {
        let stream = self.server.stream();
        if length == 0 || self.has_server_ended || !stream.takes_plaintext() {
            return;
        }
        let answer = said(length, self.server_said.len());
        let encrypted = stream.encrypt(&answer);
        assert!(encrypted.is_ok() || !self.is_undamaged, "{encrypted:?}");
        if encrypted.is_ok() {
            self.unsent = length;
            self.server_said.extend(answer);
        }
    }

    /// The kernel takes so many bytes of what is encrypted, and the client reads them.
    fn send_answer(&mut self, count: usize) {
        let stream = self.server.stream();
        if !stream.has_output() {
            return;
        }
        let bytes = stream.begin_send();
        let bytes = bytes[..count.min(bytes.len())].to_vec();
        if let Sent::Whole(plaintext) = stream.sent(bytes.len()) {
            assert!(
                [0, self.unsent].contains(&(plaintext as usize)),
                "{plaintext} bytes are sent"
            );
            self.unsent -= plaintext as usize;
        }
        let mut unread = &bytes[..];
        // rustls asserts, in debug builds, that no alert follows a client's own end.
        let reads = self.is_undamaged || !self.has_client_ended;
        while !unread.is_empty() && !self.has_client_failed && reads {
            let read = self.client.read_tls(&mut unread);
            let handled = read.map(|_| self.client.process_new_packets());
            if let Ok(Ok(state)) = &handled {
                self.is_notified |= state.peer_has_closed();
            }
            self.has_client_failed = !matches!(handled, Ok(Ok(_)));
            assert!(!self.is_undamaged || !self.has_client_failed, "{handled:?}");
            // Would block, when there is no more.
            drop(self.client.reader().read_to_end(&mut self.client_heard));
        }
    }

    fn update_keys(&mut self) {
        if self.key_updates < KEY_UPDATES_MAX && !self.has_client_ended && !self.has_client_failed {
            self.key_updates += 1;
            // Not before the end of the handshake, and not in TLS 1.2.
            drop(self.client.refresh_traffic_keys());
        }
    }

    fn end_server(&mut self) {
        self.server.stream().notify_close();
        self.has_notified |= self.has_opened;
        self.has_server_ended = true;
    }

    fn end_client(&mut self) {
        // Before that, an alert ends the handshake.
        self.is_undamaged &= !self.client.is_handshaking();
        self.client.send_close_notify();
        self.has_client_ended = true;
    }

    /// Lets everything arrive, and compares.
    fn finish(&mut self) {
        let mut exchanges = 0;
        loop {
            let mut is_quiet = true;
            while self.receive_piece(PIECE_BYTES_MAX) {
                is_quiet = false;
            }
            self.server.process_handshakes();
            while self.server.stream().has_output() {
                self.send_answer(usize::MAX);
                is_quiet = false;
            }
            if is_quiet {
                break;
            }
            exchanges += 1;
            assert!(exchanges < EXCHANGES_MAX, "it does not end");
        }
        let found = &self.server.found;
        assert!(
            self.client_said.starts_with(&found.plaintext),
            "what was not said"
        );
        assert!(
            self.server_said.starts_with(&self.client_heard),
            "what was not answered"
        );
        if !self.is_undamaged {
            return;
        }
        assert_eq!(found.error, None);
        assert_eq!(self.server_said, self.client_heard);
        assert!(
            self.is_notified || !self.has_notified,
            "the server's end is lost"
        );
        assert!(
            self.has_server_ended || !self.is_notified,
            "an end of nobody"
        );
        assert_eq!(waiting_bytes(), 0, "an idle connection has buffers");
        if !self.has_server_ended && self.is_socket_open {
            assert!(found.plaintext == self.client_said, "something is lost");
            assert_eq!(found.has_ended, self.has_client_ended);
            assert!(!self.client.is_handshaking());
            assert!(self.server.stream().takes_plaintext());
            let is_resumed = self.client.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(is_resumed, self.is_resumption);
        }
    }
}

/// So many bytes, which tell where in the stream they are.
fn said(length: usize, from: usize) -> Vec<u8> {
    let bytes = (from..from + length).map(|at| u8::try_from(at % 251).expect("less than 256"));
    bytes.collect()
}

/// Takes any certificate: it is the server's side that is of interest.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
