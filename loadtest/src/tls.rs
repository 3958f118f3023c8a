//! TLS towards the server, for URLs that begin with `wss://`.
//!
//! Any certificate will do: the server that is measured is one's own, and often shows a certificate
//! that it made itself.

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

/// What all connections to one server share. Sessions are not resumed: every handshake is a whole
/// one.
#[derive(Debug, Clone)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// For a server of this name or address, without a port.
    ///
    /// # Errors
    /// It is neither a name nor an address.
    pub(crate) fn new(host: &str) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// For other clients of the same server.
    pub(crate) fn parts(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (Arc::clone(&self.config), self.name.clone())
    }

    /// Sends the first message of a handshake.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn begin(&self, mut stream: &TcpStream) -> io::Result<TlsSession> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        connection.set_buffer_limit(None);
        connection.write_tls(&mut stream)?;
        Ok(TlsSession(Box::new(connection)))
    }
}

/// The TLS session of one connection.
#[derive(Debug)]
pub(crate) struct TlsSession(Box<ClientConnection>);

impl TlsSession {
    /// Carries the handshake on until it is complete.
    ///
    /// # Errors
    /// The socket's, or what is wrong with the server's messages.
    pub(crate) fn complete(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.0.complete_io(&mut stream)?;
        }
        Ok(())
    }

    /// Appends to `output` what is to be sent for `plain`.
    pub(crate) fn encrypt(&mut self, plain: &[u8], output: &mut Vec<u8>) {
        // Neither the session's buffer, which has no limit, nor a vector rejects anything.
        let _ = self.0.writer().write_all(plain);
        while self.0.wants_write() {
            if self.0.write_tls(output).is_err() {
                return;
            }
        }
    }

    /// Appends to `plain` what the received bytes contain.
    ///
    /// # Errors
    /// They are not what TLS allows; `plain` has what came before.
    pub(crate) fn decrypt(&mut self, mut received: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        while !received.is_empty() {
            self.0.read_tls(&mut received)?;
            let state = self.0.process_new_packets();
            // An error of the reader says that there is no more.
            while let Ok(count @ 1..) = self.0.reader().read(&mut piece) {
                plain.extend_from_slice(&piece[..count]);
            }
            state.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Takes every certificate whose key signs the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Event, Rest, Wire};
    use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
    use std::{net::TcpListener, thread, time::Duration};

    fn server() -> Arc<ServerConfig> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth();
        Arc::new(
            config
                .with_single_cert(vec![made.cert.into()], key)
                .unwrap(),
        )
    }

    #[test]
    fn bytes_pass_a_ring_both_ways_and_what_is_no_tls_ends_the_connection() {
        const LENGTH: usize = 300_000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let far = thread::spawn(move || {
            let session = ServerConnection::new(server()).unwrap();
            let mut stream = StreamOwned::new(session, listener.accept().unwrap().0);
            let mut received = vec![0; LENGTH];
            stream.read_exact(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            stream.flush().unwrap();
            stream
                .sock
                .write_all(b"\x17\x03\x03\x00\x20 no record of TLS, whatever it says")
                .unwrap();
            stream
        });
        let stream = TcpStream::connect(address).unwrap();
        let mut session = TlsClient::new("127.0.0.1").unwrap().begin(&stream).unwrap();
        session.complete(&stream).unwrap();
        let mut wire = Wire::new(1).unwrap();
        let slot = wire.register_socket(stream, Some(session)).unwrap();
        let sent: Vec<u8> = (0..u32::try_from(LENGTH).unwrap())
            .map(|n| n.to_le_bytes()[1])
            .collect();
        for piece in sent.chunks(70_000) {
            wire.send_queue().send(slot, piece);
        }
        let (mut received, mut ends) = (Vec::new(), Vec::new());
        while ends.is_empty() {
            let rest = Rest::until_event(Duration::from_millis(50));
            wire.turn(rest, |_, event, _| match event {
                Event::Received(bytes) => received.extend_from_slice(bytes),
                Event::Closed(error) => ends.push(error),
            })
            .unwrap();
        }
        assert!(received == sent, "{} bytes", received.len());
        assert!(ends[0].is_some());
        drop(far.join().unwrap());
    }
}
