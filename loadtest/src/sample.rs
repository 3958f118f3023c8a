//! A few subscribers of another make: async-tungstenite clients on a thread of their own, which
//! check the protocol and every byte of every message. The many others are checked by our own
//! parser; these keep that honest.

use crate::{
    connect::Target,
    dialect::{Awaited, Dialect, Reply, difference, find_stamp, shorten},
    ledger::{Ledger, SequenceCheck},
    placeholders::SubscriptionId,
};
use async_executor::LocalExecutor;
use async_io::Async;
use async_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};
use futures_lite::{AsyncRead, AsyncWrite, StreamExt};
use futures_rustls::TlsConnector;
use std::{
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How long all samples together may take to connect.
const START_PATIENCE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<Box<dyn Transport>>;

/// A TCP connection, with TLS or without.
trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// What one sample saw.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Messages of the channel.
    pub(crate) received: u64,
    /// Sequence numbers that never came, up to the newest that did.
    pub(crate) lost: u64,
    /// Messages behind a later one.
    pub(crate) out_of_order: u64,
    /// Messages that had come before.
    pub(crate) duplicated: u64,
    /// Messages that are not what was published.
    pub(crate) altered: u64,
    /// The first thing that was wrong, in words.
    pub(crate) complaint: Option<String>,
}

#[derive(Debug)]
struct Board {
    /// Next expected sequence number of each sample.
    next: Vec<AtomicU64>,
    /// Second handles of the sockets, to end the samples from outside.
    sockets: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

/// The running samples.
#[derive(Debug)]
pub(crate) struct Samples {
    board: Arc<Board>,
    thread: thread::JoinHandle<Vec<Findings>>,
}

/// How the samples connect and what they expect.
#[derive(Debug, Clone)]
pub(crate) struct Expectation {
    /// The server.
    pub(crate) target: Target,
    /// As on the command line.
    pub(crate) url: String,
    /// Its language.
    pub(crate) dialect: Dialect,
    /// Shown first, if given.
    pub(crate) token: Option<String>,
    /// How many filters the samples have in turn; 0 = none has one.
    pub(crate) filter_count: u32,
    /// Payload bytes of a delivery.
    pub(crate) delivery_bytes: usize,
}

impl Samples {
    /// Connects `count` samples and returns when all are subscribed.
    ///
    /// # Errors
    /// What the first unlucky sample says.
    pub(crate) fn start(count: usize, expectation: &Expectation) -> Result<Self, String> {
        let board = Arc::new(Board {
            next: (0..count).map(|_| AtomicU64::new(0)).collect(),
            sockets: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let (ready, becoming_ready) = mpsc::channel();
        let (shared, expectation) = (Arc::clone(&board), expectation.clone());
        let thread = thread::Builder::new()
            .name("samples".to_owned())
            .spawn(move || run(&shared, &expectation, &ready))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        for _ in 0..count {
            becoming_ready
                .recv_timeout(START_PATIENCE)
                .map_err(|_| "a sample client could not subscribe in time".to_owned())?
                .map_err(|words| format!("a sample client failed: {words}"))?;
        }
        Ok(Self { board, thread })
    }

    /// The sequence number that every sample has reached; `u64::MAX` without samples.
    pub(crate) fn reached(&self) -> u64 {
        // Relaxed: only paces the publisher; the findings themselves come through the join.
        self.board
            .next
            .iter()
            .map(|next| next.load(Ordering::Relaxed))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Ends the samples and returns what each saw.
    pub(crate) fn finish(self) -> Vec<Findings> {
        // Release: pairs with the acquire load after a sample's socket has ended.
        self.board.stopping.store(true, Ordering::Release);
        for socket in self
            .board
            .sockets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .iter()
        {
            // An error means that the socket has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.thread.join().unwrap_or_default()
    }
}

type Ready = mpsc::Sender<Result<(), String>>;

fn run(board: &Board, expectation: &Expectation, ready: &Ready) -> Vec<Findings> {
    let executor = LocalExecutor::new();
    let tasks: Vec<_> = (0..board.next.len())
        .map(|index| executor.spawn(follow(board, expectation, ready, index)))
        .collect();
    async_io::block_on(executor.run(async {
        let mut findings = Vec::new();
        for task in tasks {
            findings.push(task.await);
        }
        findings
    }))
}

async fn follow(board: &Board, expectation: &Expectation, ready: &Ready, index: usize) -> Findings {
    let mut findings = Findings::default();
    let (mut socket, id) = match subscribe(board, expectation, index).await {
        Ok(subscribed) => subscribed,
        Err(words) => {
            // The receiver is gone only when the whole run has failed already.
            let _ = ready.send(Err(words));
            return findings;
        }
    };
    let _ = ready.send(Ok(()));
    let mut ledger = Ledger::default();
    loop {
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                inspect(
                    &message.into_data(),
                    expectation,
                    id,
                    &mut ledger,
                    &mut findings,
                );
                // Relaxed: see `reached`.
                board.next[index].store(ledger.next(), Ordering::Relaxed);
            }
            Some(Ok(Message::Close(frame))) => {
                complain(&mut findings, || format!("closed by the server: {frame:?}"))
            }
            Some(Ok(_)) => {}
            // Acquire: pairs with the release store in `finish`.
            ended @ (Some(Err(_)) | None) => {
                if !board.stopping.load(Ordering::Acquire) {
                    let words = ended
                        .and_then(Result::err)
                        .map_or_else(|| "ended".to_owned(), |error| error.to_string());
                    complain(&mut findings, || words);
                }
                return findings;
            }
        }
    }
}

/// Returns the id that the server gave too.
async fn subscribe(
    board: &Board,
    expectation: &Expectation,
    index: usize,
) -> Result<(Socket, Option<SubscriptionId>), String> {
    let in_words = |error: Error| error.to_string();
    let stream = Async::<TcpStream>::connect(expectation.target.address)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .get_ref()
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let second_handle = stream
        .get_ref()
        .try_clone()
        .map_err(|error| error.to_string())?;
    board
        .sockets
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(second_handle);
    let stream: Box<dyn Transport> = match &expectation.target.tls {
        None => Box::new(stream),
        Some(tls) => {
            let (config, name) = tls.parts();
            let stream = TlsConnector::from(config).connect(name, stream).await;
            Box::new(stream.map_err(|error| error.to_string())?)
        }
    };
    let (mut socket, _) = client_async(expectation.url.as_str(), stream)
        .await
        .map_err(in_words)?;
    if let Some(token) = &expectation.token {
        socket
            .send(Message::text(Dialect::authenticate(token)))
            .await
            .map_err(in_words)?;
        await_reply(&mut socket, expectation.dialect, Awaited::Authenticated).await?;
    }
    let filter = u32::try_from(index).unwrap_or(0);
    let filter = filter.checked_rem(expectation.filter_count);
    socket
        .send(Message::text(expectation.dialect.subscribe(filter)))
        .await
        .map_err(in_words)?;
    let id = await_reply(&mut socket, expectation.dialect, Awaited::Subscribed).await?;
    Ok((socket, id))
}

async fn await_reply(
    socket: &mut Socket,
    dialect: Dialect,
    awaited: Awaited,
) -> Result<Option<SubscriptionId>, String> {
    while let Some(message) = socket.next().await {
        let message = message.map_err(|error| error.to_string())?;
        if !message.is_text() {
            continue;
        }
        match dialect.classify(awaited, &message.into_data()) {
            Reply::Awaited(id) => return Ok(id),
            Reply::Rejected(words) => return Err(words),
            Reply::Other => {}
        }
    }
    Err("the server closed the connection".to_owned())
}

/// Checks one message of the server against what was published.
fn inspect(
    message: &[u8],
    expectation: &Expectation,
    id: Option<SubscriptionId>,
    ledger: &mut Ledger,
    findings: &mut Findings,
) {
    let dialect = expectation.dialect;
    if dialect != Dialect::Verbatim {
        match serde_json::from_slice::<serde_json::Value>(message) {
            Ok(json) if dialect.is_delivery(&json) => {}
            Ok(_) => return,
            Err(error) => {
                findings.altered += 1;
                complain(findings, || {
                    format!("not JSON ({error}): {}", shorten(message))
                });
                return;
            }
        }
    }
    let Some((sequence, sent_ns)) = find_stamp(message) else {
        findings.altered += 1;
        complain(findings, || {
            format!("no sequence number: {}", shorten(message))
        });
        return;
    };
    let mut expected = Vec::with_capacity(expectation.delivery_bytes);
    dialect.delivery(sequence, sent_ns, expectation.delivery_bytes, &mut expected);
    if let (Some(placeholders), Some(id)) = (dialect.placeholders(), &id) {
        placeholders.fill_id(&mut expected, id);
        placeholders.fill_time(&mut expected, message);
    }
    if message != expected {
        findings.altered += 1;
        complain(findings, || difference(message, &expected));
    }
    findings.received += 1;
    match ledger.take(sequence) {
        SequenceCheck::InOrder => {}
        SequenceCheck::Gap(gap) => {
            findings.lost += gap.end - gap.start;
            complain(findings, || {
                format!("publication {sequence} came where {} was due", gap.start)
            });
        }
        SequenceCheck::Late => {
            findings.lost -= 1;
            findings.out_of_order += 1;
        }
        SequenceCheck::Duplicate => {
            findings.duplicated += 1;
            complain(findings, || format!("publication {sequence} came twice"));
        }
    }
}

fn complain(findings: &mut Findings, words: impl FnOnce() -> String) {
    if findings.complaint.is_none() {
        findings.complaint = Some(words());
    }
}
