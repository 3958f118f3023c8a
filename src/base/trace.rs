//! What is traced: contexts of other programs, the decision what to record, and finished spans on their
//! way to the thread that exports them.
//!
//! ```text
//!   Tracer ──root, child──▶ OpenSpan ──end──▶ bounded queue ──▶ Spans (integration thread)
//!                                                └── full: counted, dropped
//! ```
//!
//! Nothing here formats, encodes or waits. Without a [`Tracer`] nothing is traced.

use super::id::DialectId;
use super::limits::TRACE_SPANS_WAITING;
use super::now::Stopwatch;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lengths of the parts of a `traceparent`: version, trace id, parent id, flags.
const PART_LENGTHS: [usize; 4] = [2, 32, 16, 2];
/// W3C Trace Context 3.2.2.5.1: the caller may have recorded its part of the trace.
const FLAG_SAMPLED: u8 = 1;
/// The increment of splitmix64, whose states have a period of 2^64.
const STATE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which span of which trace: of one that is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span.
    pub span_id: [u8; 8],
}

/// Bytes of a context in a record of the ring.
pub const TRACE_CONTEXT_BYTES: usize = 24;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The span of the caller.
    pub context: TraceContext,
    /// Whether the caller wants the trace to be recorded.
    pub is_sampled: bool,
}

/// Whose wish to be traced counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentTrust {
    /// Nobody's: only the ratio decides.
    None,
    /// That of callers of the HTTP API with a key.
    #[default]
    Keys,
    /// Everybody's.
    All,
}

impl TraceContext {
    /// `traceparent` for others, with the flag `sampled` (W3C Trace Context 3.2).
    #[must_use]
    pub fn to_header(self) -> String {
        format!("00-{self:?}-01")
    }

    /// As it stands in a record.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TRACE_CONTEXT_BYTES] {
        let mut bytes = [0; TRACE_CONTEXT_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..].copy_from_slice(&self.span_id);
        bytes
    }

    /// From a record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; TRACE_CONTEXT_BYTES]) -> Self {
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&bytes[..16]);
        span_id.copy_from_slice(&bytes[16..]);
        Self { trace_id, span_id }
    }
}

/// Trace id and span id, in hexadecimal.
impl fmt::Debug for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (
            u128::from_be_bytes(self.trace_id),
            u64::from_be_bytes(self.span_id),
        );
        write!(formatter, "{trace_id:032x}-{span_id:016x}")
    }
}

impl TraceParent {
    /// Parses a `traceparent`. W3C Trace Context 3.2.2: lower-case hexadecimal; ids of zeros are none.
    /// Later versions may append parts.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let mut parts = value.split('-');
        let mut found = [""; 4];
        for (part, length) in found.iter_mut().zip(PART_LENGTHS) {
            *part = parts.next()?;
            if part.len() != length || !part.bytes().all(is_hex) {
                return None;
            }
        }
        let [version, trace_id, span_id, flags] = found;
        let is_valid = version != "ff" && (version != "00" || parts.next().is_none());
        let trace_id = u128::from_str_radix(trace_id, 16).ok()?;
        let span_id = u64::from_str_radix(span_id, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (is_valid && trace_id != 0 && span_id != 0).then_some(Self {
            context: TraceContext {
                trace_id: trace_id.to_be_bytes(),
                span_id: span_id.to_be_bytes(),
            },
            is_sampled: flags & FLAG_SAMPLED != 0,
        })
    }
}

/// A span that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSpan {
    /// Its own context.
    pub context: TraceContext,
    parent: Option<[u8; 8]>,
    began_nanos: u64,
}

impl OpenSpan {
    /// The same, which began at this time by the stopwatch of the tracer.
    #[must_use]
    pub const fn began_at(self, began_nanos: u64) -> Self {
        Self {
            began_nanos,
            ..self
        }
    }
}

/// A finished span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    /// Its own context.
    pub context: TraceContext,
    /// The span above it in the same trace.
    pub parent: Option<[u8; 8]>,
    /// Its begin and its end, by the stopwatch of the tracer.
    pub began_nanos: u64,
    /// See there.
    pub ended_nanos: u64,
    /// What it is about.
    pub details: SpanDetails,
}

/// What a span is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanDetails {
    /// A request to the HTTP API.
    Request {
        /// The method.
        method: String,
        /// The path with `{}` in place of what differs; empty for a path that leads nowhere.
        route: &'static str,
        /// Of the answer.
        status: u16,
        /// By which other programs know the request.
        correlation_id: String,
    },
    /// The handshake of a connection: from its acceptance until its upgrade is answered.
    Connection {
        /// The path, without what names a tenant.
        route: String,
        /// What is spoken on it.
        dialect: Option<DialectId>,
        /// The listener, from 0.
        listener: u8,
        /// Why it was rejected.
        rejection: Option<&'static str>,
        /// Of the answer.
        status: u16,
    },
    /// A client proves who it is.
    Authentication {
        /// What is spoken.
        dialect: DialectId,
        /// Why it failed.
        error: Option<&'static str>,
    },
    /// A publication, from the decision that it is allowed until it is in the ring or waits for room.
    Publish {
        /// The name of its channel.
        channel: Box<str>,
        /// Bytes of its data.
        data_bytes: usize,
        /// Why it was not published.
        error: Option<&'static str>,
    },
    /// The delivery of a publication to the subscribers of one shard.
    FanOut {
        /// The shard.
        shard: u16,
        /// Whether the end is when the socket of the last subscriber had taken it; else when it was
        /// queued, because that socket took nothing or was closed.
        is_sent: bool,
    },
}

/// How spans fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Accepted by the collector.
    pub exported: u64,
    /// Dropped, because too many waited.
    pub queue_full: u64,
    /// Dropped, because the collector could not be reached or rejected them.
    pub failed: u64,
}

/// What all tracers of a process share.
#[derive(Debug)]
struct Shared {
    queue: Sender<SpanRecord>,
    /// A random number below this is a root that is traced.
    threshold: u64,
    trust: ParentTrust,
    stopwatch: Stopwatch,
    counts: AtomicCounts,
}

/// All accesses are relaxed: no other data depends on the counts.
#[derive(Debug, Default)]
struct AtomicCounts {
    exported: AtomicU64,
    queue_full: AtomicU64,
    failed: AtomicU64,
}

/// Decides what is traced, and takes the spans of it. A clone has random numbers of its own, so that
/// threads with a clone each do not wait for each other's cache lines.
#[derive(Debug)]
pub struct Tracer {
    shared: Arc<Shared>,
    state: AtomicU64,
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Spans {
    received: Receiver<SpanRecord>,
    shared: Arc<Shared>,
}

impl Clone for Tracer {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            state: AtomicU64::new(RandomState::new().hash_one(0)),
        }
    }
}

impl Tracer {
    /// A tracer that records this share of what nobody asked to trace, in millionths.
    #[must_use]
    pub fn new(ratio_millionths: u32, trust: ParentTrust, stopwatch: Stopwatch) -> (Self, Spans) {
        let (queue, received) = bounded(TRACE_SPANS_WAITING);
        let threshold = u128::from(ratio_millionths) * u128::from(u64::MAX) / 1_000_000;
        let shared = Arc::new(Shared {
            queue,
            threshold: u64::try_from(threshold).unwrap_or(u64::MAX),
            trust,
            stopwatch,
            counts: AtomicCounts::default(),
        });
        let tracer = Self {
            shared: Arc::clone(&shared),
            state: AtomicU64::new(RandomState::new().hash_one(0)),
        };
        (tracer, Spans { received, shared })
    }

    /// splitmix64.
    fn random(&self) -> u64 {
        // Relaxed: each caller needs a number of its own, in no order.
        let state = self.state.fetch_add(STATE_STEP, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn random_span_id(&self) -> [u8; 8] {
        // Zero is none.
        self.random().max(1).to_be_bytes()
    }

    /// Whether the wish of somebody without a key counts.
    #[must_use]
    pub fn trusts_all(&self) -> bool {
        self.shared.trust == ParentTrust::All
    }

    /// Whether the wish of somebody with a key counts.
    #[must_use]
    pub fn trusts_keys(&self) -> bool {
        self.shared.trust != ParentTrust::None
    }

    /// Begins the first span here of what somebody asks for, if that is traced: as the `parent` says if
    /// it `is_trusted`, else by chance. A parent that is not trusted is not continued: whoever sends
    /// requests could add to the traces of others.
    #[must_use]
    pub fn root(&self, parent: Option<TraceParent>, is_trusted: bool) -> Option<OpenSpan> {
        match parent.filter(|_| is_trusted) {
            Some(parent) => parent.is_sampled.then(|| self.child(parent.context)),
            None => self.by_chance(),
        }
    }

    /// Begins a trace by chance.
    fn by_chance(&self) -> Option<OpenSpan> {
        if self.random() >= self.shared.threshold {
            return None;
        }
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&self.random_span_id());
        trace_id[8..].copy_from_slice(&self.random_span_id());
        let context = TraceContext {
            trace_id,
            span_id: self.random_span_id(),
        };
        Some(OpenSpan {
            context,
            parent: None,
            began_nanos: self.nanos(),
        })
    }

    /// Begins a span below another one.
    #[must_use]
    pub fn child(&self, parent: TraceContext) -> OpenSpan {
        OpenSpan {
            context: TraceContext {
                span_id: self.random_span_id(),
                ..parent
            },
            parent: Some(parent.span_id),
            began_nanos: self.nanos(),
        }
    }

    /// Ends a span now. When too many wait to be exported, it is dropped and counted.
    pub fn end(&self, span: OpenSpan, details: SpanDetails) {
        let record = SpanRecord {
            context: span.context,
            parent: span.parent,
            began_nanos: span.began_nanos,
            ended_nanos: self.nanos(),
            details,
        };
        if self.shared.queue.try_send(record).is_err() {
            self.count_dropped();
        }
    }

    /// Counts a span that is not recorded, because too many are open or wait.
    pub fn count_dropped(&self) {
        let counts = &self.shared.counts;
        counts.queue_full.fetch_add(1, Ordering::Relaxed);
    }

    /// Now, by the stopwatch of all spans.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        self.shared.stopwatch.nanos()
    }

    /// How the spans of the process fared so far.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        self.shared.counts()
    }
}

impl Shared {
    fn counts(&self) -> SpanCounts {
        let counts = &self.counts;
        SpanCounts {
            exported: counts.exported.load(Ordering::Relaxed),
            queue_full: counts.queue_full.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        }
    }
}

impl Spans {
    /// Takes up to `count_max` of those that wait.
    #[must_use]
    pub fn take(&self, count_max: usize) -> Vec<SpanRecord> {
        self.received.try_iter().take(count_max).collect()
    }

    /// Counts what became of spans that were taken.
    pub fn count(&self, exported: u64, failed: u64) {
        let counts = &self.shared.counts;
        counts.exported.fetch_add(exported, Ordering::Relaxed);
        counts.failed.fetch_add(failed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(ratio_millionths: u32) -> (Tracer, Spans) {
        Tracer::new(ratio_millionths, ParentTrust::Keys, Stopwatch::STOPPED)
    }

    #[test]
    fn a_traceparent_reads_as_it_is_written_and_malformed_ones_are_none() {
        let parent = TraceParent::parse(HEADER).unwrap();
        assert!(parent.is_sampled);
        assert_eq!(parent.context.to_header(), HEADER);
        let bytes = parent.context.to_bytes();
        assert_eq!(TraceContext::from_bytes(&bytes), parent.context);
        let not_sampled = TraceParent::parse(&HEADER.replace("-01", "-fe")).unwrap();
        assert!(!not_sampled.is_sampled);
        // A later version.
        assert!(TraceParent::parse(&(HEADER.replace("00-4", "01-4") + "-more")).is_some());
        for malformed in [
            "",
            "00",
            &HEADER[..54],
            &format!("{HEADER}-x"),
            &format!("{HEADER} "),
            &HEADER.to_ascii_uppercase(),
            &HEADER.replace("00-4", "ff-4"),
            &HEADER.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &HEADER.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &HEADER.replace("-01", "-+1"),
            &HEADER.replace('a', "\u{e9}"),
        ] {
            assert_eq!(TraceParent::parse(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_parent_decides_only_if_it_is_trusted_and_else_the_ratio() {
        let parent = TraceParent::parse(HEADER);
        let off = parent.map(|parent| TraceParent {
            is_sampled: false,
            ..parent
        });
        let (never, _spans) = tracer(0);
        let trusted = never.root(parent, true).unwrap();
        assert_eq!(trusted.context.trace_id, parent.unwrap().context.trace_id);
        assert_eq!(trusted.parent, Some(parent.unwrap().context.span_id));
        assert_eq!(never.root(parent, false), None);
        assert_eq!(never.root(None, true), None);
        let (always, _spans) = tracer(1_000_000);
        assert_eq!(always.root(off, true), None);
        let own = always.root(parent, false).unwrap();
        assert_ne!(own.context.trace_id, parent.unwrap().context.trace_id);
        assert_eq!(own.parent, None);
    }

    #[test]
    fn the_ratio_is_kept_whatever_the_callers_send() {
        let (tracer, _spans) = tracer(100_000);
        let parent = TraceParent::parse(HEADER);
        let count = (0..100_000).filter(|_| tracer.root(parent, false).is_some());
        let count = count.count();
        assert!((9_000..11_000).contains(&count), "{count}");
    }

    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let (tracer, spans) = tracer(1_000_000);
        let details = SpanDetails::FanOut {
            shard: 0,
            is_sent: true,
        };
        for _ in 0..TRACE_SPANS_WAITING + 7 {
            let span = tracer.root(None, false).unwrap();
            tracer.end(span, details.clone());
        }
        assert_eq!(tracer.counts().queue_full, 7);
        assert_eq!(spans.take(10).len(), 10);
        assert_eq!(spans.take(usize::MAX).len(), TRACE_SPANS_WAITING - 10);
    }
}
