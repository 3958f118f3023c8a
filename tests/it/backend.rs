//! An HTTP server of the operator, for callbacks, webhooks and the JWK set: it answers, hangs, lies or
//! fails, as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is answered to a request's body.
pub(crate) type Reply = Box<dyn Fn(&str) -> Answer + Send>;

pub(crate) enum Answer {
    /// A status and a body.
    Http(u16, String),
    /// These bytes, and the end.
    Raw(&'static [u8]),
    /// Nothing, for longer than any test waits.
    Hang,
}

/// The server. It ends with the test's process.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    reply: Arc<Mutex<Reply>>,
    received: Arc<Mutex<Vec<Received>>>,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Received {
    /// The value of a header, whose name is in lower case.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

impl Backend {
    pub(crate) fn new(reply: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            reply: Arc::new(Mutex::new(Box::new(reply))),
            received: Arc::default(),
        };
        let (requests, reply) = (Arc::clone(&backend.requests), Arc::clone(&backend.reply));
        let received = Arc::clone(&backend.received);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (requests, reply) = (Arc::clone(&requests), Arc::clone(&reply));
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(&socket, &requests, &reply, &received));
            }
        });
        backend
    }

    /// Answers otherwise from now on.
    pub(crate) fn replies(&self, reply: impl Fn(&str) -> Answer + Send + 'static) {
        *self.reply.lock().unwrap() = Box::new(reply);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn serve(
    socket: &TcpStream,
    requests: &AtomicUsize,
    reply: &Mutex<Reply>,
    received: &Mutex<Vec<Received>>,
) {
    let mut reader = BufReader::new(socket);
    loop {
        let mut length = 0;
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        requests.fetch_add(1, Ordering::Relaxed);
        let answer = {
            // What is received is in the order of the answers.
            let reply = reply.lock().unwrap();
            let request = Received {
                head,
                body: body.clone(),
            };
            received.lock().unwrap().push(request);
            reply(&body)
        };
        let mut socket = socket;
        match answer {
            Answer::Http(status, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n");
                let _ = socket.write_all((head + &body).as_bytes());
            }
            Answer::Raw(bytes) => {
                let _ = socket.write_all(bytes);
                return;
            }
            Answer::Hang => std::thread::sleep(Duration::from_mins(2)),
        }
    }
}
