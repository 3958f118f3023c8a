//! TLS on the listeners of clients.

use crate::harness::{Client, Frame, Raw, SECRET, Server, http, upgrade_request};
use crate::process::Directory;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// Takes any certificate: the tests look at it themselves.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

type Versions = &'static [&'static SupportedProtocolVersion];
const BOTH: Versions = &[&TLS12, &TLS13];

/// A certificate with its key, in files.
struct Issued {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn issue(directory: &Path, file: &str, name: &str) -> Issued {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    fs::write(directory.join(format!("{file}.pem")), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    fs::write(directory.join(format!("{file}.key")), key).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    Issued {
        certificate: made.cert.der().clone(),
        key,
    }
}

fn config(versions: Versions, identity: Option<Issued>) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)));
    Arc::new(match identity {
        None => config.with_no_client_auth(),
        Some(Issued { certificate, key }) => config
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
    })
}

/// A plain port whose connections go on by TLS.
fn tunnel(server: SocketAddr, config: Arc<ClientConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (mut plain, _) = listener.accept().await.unwrap();
                let connector = TlsConnector::from(Arc::clone(&config));
                tokio::spawn(async move {
                    let socket = tokio::net::TcpStream::connect(server).await?;
                    let name = ServerName::try_from("localhost").unwrap();
                    let mut encrypted = connector.connect(name, socket).await?;
                    tokio::io::copy_bidirectional(&mut plain, &mut encrypted).await
                });
            }
        });
    });
    address
}

/// A plain port whose connections go on by TLS, to a server of whatever certificate.
pub(crate) fn plain_port_for(server: SocketAddr) -> SocketAddr {
    tunnel(server, config(BOTH, None))
}

/// The certificate that a client of this name receives, by a handshake of its own.
fn presented(server: SocketAddr, name: &str) -> CertificateDer<'static> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(config(BOTH, None), name).unwrap();
    let mut socket = TcpStream::connect(server).unwrap();
    connection.complete_io(&mut socket).unwrap();
    connection.peer_certificates().unwrap()[0].clone()
}

/// A server with one certificate for `localhost`.
fn secure(name: &str, shards: u16) -> (Server, Directory) {
    secure_by(name, shards, false)
}

/// The same; with `kernel`, the kernel encrypts if it can.
fn secure_by(name: &str, shards: u16, kernel: bool) -> (Server, Directory) {
    let directory = Directory::new(name);
    issue(&directory.path, "a", "localhost");
    let pair = pair(&directory, "a");
    let server = Server::with(|builder| {
        let builder = builder.dev().shards(fanwire::ShardCount::Fixed(shards));
        builder
            .set("tls_certificates", vec![pair])
            .set("tls_kernel", kernel)
            .set("gateway.rate_limit", "off")
    });
    (server, directory)
}

fn pair(directory: &Directory, file: &str) -> String {
    let path = directory.path.canonicalize().unwrap();
    format!("{0}/{file}.pem {0}/{file}.key", path.display())
}

#[test]
fn clients_subscribe_and_publish_by_either_version() {
    let server = talk_by_either_version("tls-both", false);
    assert_eq!(
        server.metric("fanwire_tls_connections_total{sender=\"kernel\""),
        0
    );
}

#[test]
fn whoever_encrypts_clients_notice_nothing_of_it() {
    // Hosts of tests have the kernel's TLS or not; tests/tls/kernel.sh has it.
    let server = talk_by_either_version("tls-kernel", true);
    let of = |sender: &str| {
        let series = format!("fanwire_tls_connections_total{{sender=\"{sender}\"");
        server.metric(&series)
    };
    let has_tls = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap();
    let is_by_kernel = has_tls.split_whitespace().any(|name| name == "tls");
    // Linux before 6.7 has no way to it.
    assert!(of("kernel") == 0 || is_by_kernel, "{has_tls}");
    assert!(of("process") == 0 || of("kernel") == 0, "{has_tls}");
    assert!(of("process") + of("kernel") >= 5);
}

/// Clients of both versions talk with each other; afterwards the server is drained.
fn talk_by_either_version(name: &str, kernel: bool) -> Server {
    let (server, _directory) = secure_by(name, 2, kernel);
    const OLD: Versions = &[&TLS12];
    const NEW: Versions = &[&TLS13];
    let [old, new] = [OLD, NEW].map(|versions| tunnel(server.address, config(versions, None)));
    let mut clients = [old, new, old, new].map(|address| Client::subscribed(address, "news"));
    let large = "x".repeat(600_000);
    for number in 0..200 {
        let data = match number % 50 {
            0 => format!(r#""{number} {large}""#),
            _ => format!(r#""{number}""#),
        };
        let index = number % clients.len();
        clients[index].publish("news", &data);
        for client in &mut clients {
            let message = client.receive();
            assert!(message.contains(&data), "{number}: {} bytes", message.len());
        }
    }
    let (status, health) = http(
        new,
        "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status, 200, "{health}");
    server.await_metric("fanwire_tls_handshakes_total{result=\"done\"", 5);
    // The close handshake, and the end of the stream behind it.
    let mut raw = Raw::connect(new);
    raw.write(upgrade_request("/ws", "").as_bytes());
    raw.read_head();
    server.drain();
    loop {
        match raw.read() {
            Frame::Close(code, _) => break assert_eq!(code, 1001),
            Frame::End => panic!("no close frame"),
            _ => {}
        }
    }
    server
}

#[test]
fn a_client_receives_the_certificate_for_the_name_it_asks_for_and_new_ones_without_a_restart() {
    let directory = Directory::new("tls-names");
    let one = issue(&directory.path, "one", "one.test").certificate;
    let two = issue(&directory.path, "two", "two.test").certificate;
    let pairs = vec![pair(&directory, "one"), pair(&directory, "two")];
    let server = Server::with(|builder| builder.dev().set("tls_certificates", pairs));
    let address = server.address;
    assert_eq!(presented(address, "one.test"), one);
    assert_eq!(presented(address, "two.test"), two);
    assert_eq!(presented(address, "other.test"), one);

    let mut client = Client::subscribed(tunnel(address, config(BOTH, None)), "news");
    // A key that is another's: all stay as they are.
    let new = issue(&directory.path, "new", "two.test").certificate;
    let path = |file: &str| directory.path.join(file);
    fs::copy(path("new.pem"), path("two.pem")).unwrap();
    let changed = |expected: &CertificateDer<'_>| {
        (0..40).any(|_| {
            std::thread::sleep(Duration::from_millis(250));
            presented(address, "two.test") == *expected
        })
    };
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(presented(address, "two.test"), two);
    fs::copy(path("new.key"), path("two.key")).unwrap();
    assert!(changed(&new), "the new certificate is not used");
    assert_eq!(presented(address, "one.test"), one);
    client.publish("news", "1");
    assert!(client.receive().contains("news"));
}

#[test]
fn what_is_no_tls_is_rejected_and_counted() {
    let (server, _directory) = secure("tls-none", 1);
    let request = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n";
    let (status, body) = http(server.address, request);
    assert_eq!((status, body.trim()), (400, "This port speaks TLS."));
    for bytes in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"\x00",
        b"\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.write_all(bytes).unwrap();
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // An alert, or nothing.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 20, "{answer:?}");
    }
    server.await_metric("fanwire_connections_rejected_total{reason=\"tls\"", 4);
    server.await_metric("fanwire_connections{", 0);
}

#[test]
fn clients_without_the_certificate_that_is_wanted_do_not_come_in() {
    let directory = Directory::new("tls-clients");
    issue(&directory.path, "a", "localhost");
    let trusted = issue(&directory.path, "client", "client.test");
    let stranger = issue(&directory.path, "stranger", "client.test");
    let pairs = vec![pair(&directory, "a")];
    let roots = directory.path.join("client.pem").canonicalize().unwrap();
    let server = Server::with(|builder| {
        builder
            .dev()
            .set("tls_certificates", pairs)
            .set("tls_client_roots", roots.to_str().unwrap().to_owned())
    });
    for identity in [None, Some(stranger)] {
        let mut raw = Raw::connect(tunnel(server.address, config(BOTH, identity)));
        raw.write(upgrade_request("/ws", "").as_bytes());
        assert_eq!(raw.read(), Frame::End);
    }
    let trusted = tunnel(server.address, config(BOTH, Some(trusted)));
    let mut client = Client::subscribed(trusted, "news");
    client.publish("news", "1");
    assert!(client.receive().contains("news"));
}

#[test]
fn a_server_does_not_start_with_files_that_do_not_fit() {
    let directory = Directory::new("tls-unfit");
    issue(&directory.path, "a", "localhost");
    issue(&directory.path, "b", "localhost");
    let path = directory.path.canonicalize().unwrap();
    let path = path.display();
    for (files, expected) in [
        (format!("{path}/a.pem {path}/b.key"), "b.key: "),
        (
            format!("{path}/a.key {path}/a.key"),
            "a.key: it has no certificate",
        ),
        (format!("{path}/a.pem {path}/none.key"), "none.key: "),
    ] {
        let builder = fanwire::Server::builder()
            .listen(([127, 0, 0, 1], 0).into())
            .jwt_secret(SECRET)
            .set("tls_certificates", vec![files]);
        let error = builder.start().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn who_does_not_finish_the_handshake_or_does_not_read_is_closed_and_disturbs_nobody() {
    let directory = Directory::new("tls-slow");
    issue(&directory.path, "a", "localhost");
    let pair = pair(&directory, "a");
    let server = Server::with(|builder| {
        builder
            .dev()
            .shards(fanwire::ShardCount::Fixed(1))
            .set("tls_certificates", vec![pair])
            .set("slow_consumer_timeout", "1s")
            .set("send_queue_bytes_max", "1 MiB")
    });
    let address = tunnel(server.address, config(BOTH, None));
    let mut stalled: Vec<_> = [&b""[..], b"\x16", b"\x16\x03\x01\x01\x00\x01\x00"]
        .iter()
        .map(|bytes| {
            let mut socket = TcpStream::connect(server.address).unwrap();
            socket.write_all(bytes).unwrap();
            socket
        })
        .collect();
    let mut bystander = Client::subscribed(address, "news");
    // It subscribes and then reads nothing more.
    let mut deaf = TcpStream::connect(server.address).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(config(BOTH, None), name).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut deaf);
    let subscribe =
        crate::harness::frame_bytes(0x81, br#"{"type":"subscribe","data":{"channel":"news"}}"#);
    stream
        .write_all(upgrade_request("/ws", "").as_bytes())
        .unwrap();
    stream.write_all(&subscribe).unwrap();
    let mut bytes = [0; 4_096];
    let mut said = String::new();
    while !said.contains("subscribed") {
        let count = stream.read(&mut bytes).unwrap();
        said += &String::from_utf8_lossy(&bytes[..count]);
    }
    let large = "x".repeat(200_000);
    let mut count = 0;
    while server.metric("fanwire_closes_total{reason=\"slow_consumer\"") == 0 {
        assert!(count < 2_000, "the client that does not read stays");
        let data = format!("{count} {large}");
        server.program().broadcast("news", "m", &data).unwrap();
        assert!(bystander.receive().contains(&data));
        count += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    for socket in &mut stalled {
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut rest = Vec::new();
        // The answer of a timeout cannot be encrypted.
        let end = socket.read_to_end(&mut rest);
        assert!(end.is_err() || rest.is_empty(), "{rest:?}");
        assert!(
            !matches!(end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "still open"
        );
    }
}

/// A handshake behind these bytes, which leave one by one or together with it.
fn behind(server: SocketAddr, ahead: &[u8], is_cut: bool) -> std::io::Result<Tunneled> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(config(BOTH, None), name).unwrap();
    let mut socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    let mut bytes = ahead.to_vec();
    connection.write_tls(&mut bytes)?;
    let pieces = if is_cut { 1 } else { bytes.len() };
    for piece in bytes.chunks(pieces) {
        socket.write_all(piece)?;
    }
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(rustls::StreamOwned::new(connection, socket))
}

type Tunneled = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// The status of the answer to a request; an error when the server has ended the connection.
fn status(stream: &mut Tunneled, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    Ok(head.split(' ').nth(1).unwrap().to_owned())
}

#[test]
fn the_header_of_a_proxy_that_passes_tls_through_comes_ahead_of_it() {
    let directory = Directory::new("tls-behind");
    issue(&directory.path, "a", "localhost");
    let pair = pair(&directory, "a");
    let start = |mode: &str| {
        Server::with(|builder| {
            builder
                .dev()
                .set("tls_certificates", vec![pair.clone()])
                .set("trusted_proxies", "127.0.0.0/8")
                .set("proxy_protocol", mode)
        })
    };
    let text = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4000 443\r\n").into_bytes();
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\x7f\0\0\x01\x0f\xa0\0\x50";
    let upgrade = upgrade_request("/monitoring", "");
    let mut server = start("optional");
    for mode in ["optional", "required"] {
        if mode == "required" {
            server = start(mode);
        }
        let mut open = Vec::new();
        for (ahead, is_cut, client) in [
            (text("192.0.2.7"), false, "192.0.2.7:4000:"),
            (text("192.0.2.8"), true, "192.0.2.8:4000:"),
            (binary.to_vec(), true, "192.0.2.9:4000:"),
        ] {
            let mut stream = behind(server.address, &ahead, is_cut).unwrap();
            assert_eq!(status(&mut stream, &upgrade).unwrap(), "101", "{mode}");
            let mut welcome = vec![0; 60];
            stream.read_exact(&mut welcome).unwrap();
            let welcome = String::from_utf8_lossy(&welcome).into_owned();
            assert!(welcome.contains(client), "{mode}: {welcome}");
            open.push(stream);
        }
        // What a client says inside TLS is a bad request.
        let header = String::from_utf8(text("192.0.2.7")).unwrap();
        let mut liar = behind(server.address, &text("192.0.2.6"), false).unwrap();
        assert_eq!(
            status(&mut liar, &(header.clone() + &upgrade)).unwrap(),
            "400"
        );
        // The answer does not always come before the end.
        let is_rejected = |ahead: &[u8]| {
            let stream = behind(server.address, ahead, false);
            let answer = stream.and_then(|mut stream| status(&mut stream, &upgrade));
            !answer.is_ok_and(|status| status == "101")
        };
        assert!(is_rejected(b"PROXY TCP4 here there 1 2\r\n"));
        server.await_metric(
            "fanwire_connections_rejected_total{reason=\"proxy_header\"",
            1,
        );
        if mode == "required" {
            assert!(is_rejected(b""));
            server.await_metric(
                "fanwire_connections_rejected_total{reason=\"proxy_header_missing\"",
                1,
            );
        } else {
            let mut without = behind(server.address, b"", false).unwrap();
            assert_eq!(status(&mut without, &(header + &upgrade)).unwrap(), "400");
            // A message of the handshake in many segments.
            let mut without = behind(server.address, b"", true).unwrap();
            assert_eq!(status(&mut without, &upgrade).unwrap(), "101");
        }
    }
}

#[test]
fn who_is_rejected_ahead_of_tls_costs_no_handshake() {
    let directory = Directory::new("tls-strangers");
    issue(&directory.path, "a", "localhost");
    let start = |trusted: &str| {
        Server::with(|builder| {
            builder
                .dev()
                .set("tls_certificates", vec![pair(&directory, "a")])
                .set("trusted_proxies", trusted)
                .set("proxy_protocol", "required")
        })
    };
    let missing = "fanwire_connections_rejected_total{reason=\"proxy_header_missing\"";
    let malformed = "fanwire_connections_rejected_total{reason=\"proxy_header\"";
    for (trusted, ahead, series) in [
        ("127.0.0.0/8", "", missing),
        ("127.0.0.0/8", "PROXY TCP4 here there 1 2\r\n", malformed),
        ("192.0.2.0/24", "", missing),
        (
            "192.0.2.0/24",
            "PROXY TCP4 192.0.2.7 127.0.0.1 4000 443\r\n",
            missing,
        ),
    ] {
        let server = start(trusted);
        let is_open = behind(server.address, ahead.as_bytes(), false).is_ok();
        assert!(!is_open, "{trusted} {ahead:?}");
        server.await_metric(series, 1);
        assert_eq!(server.metric("fanwire_tls_handshakes_total{"), 0, "{ahead}");
    }
}

#[test]
fn what_follows_the_handshake_at_once_is_not_too_much_while_many_wait() {
    let (server, _directory) = secure("tls-eager", 1);
    let name = || ServerName::try_from("localhost").unwrap();
    let begin = || {
        let mut connection = rustls::ClientConnection::new(config(BOTH, None), name()).unwrap();
        connection.set_buffer_limit(None);
        let mut socket = TcpStream::connect(server.address).unwrap();
        connection.write_tls(&mut socket).unwrap();
        (connection, socket)
    };
    let mut strangers = Vec::new();
    for _ in 0..5 {
        let (mut connection, mut socket) = begin();
        while connection.wants_read() && connection.is_handshaking() {
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
        // Behind its last message of the handshake comes a request, while others begin.
        let body = format!("{{\"message\":\"{}\"}}", "x".repeat(600_000));
        let head = format!(
            "POST /notify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection
            .writer()
            .write_all((head + &body).as_bytes())
            .unwrap();
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        strangers.extend((0..200).map(|_| begin()));
        socket.write_all(&bytes).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        assert_ne!(status(&mut stream, "").unwrap(), "101");
    }
    let failed = "fanwire_tls_handshakes_total{result=\"failed\"";
    assert_eq!(server.metric(failed), 0);
}
