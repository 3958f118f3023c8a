//! `conformance`: the client of Autobahn|Testsuite, which judges the reader of messages that the other
//! commands have.
//!
//! The suite listens (`wstest -m fuzzingserver`). Each case is a connection of its own, on which everything
//! that arrives is sent back; the suite decides what was wrong.

use crate::{
    cli::ConformanceArgs,
    clock::now_ns,
    connect::{Dialer, Target},
    dialect::Dialect,
    fail::RunError,
    frames::{self, Fault, Reader},
    inflated::Inflated,
    report::Report,
    wire::{Event, Rest, SendQueue, Wire},
};
use std::time::Duration;

/// Connections of a run: the 517 cases of the suite, the question how many there are, and the end.
const CONNECTIONS_MAX: u32 = 1_024;
/// Longest silence of the suite within a case; it waits for seconds in some of them.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Longest sleep without looking at the clock.
const TURN_PATIENCE: Duration = Duration::from_millis(20);

/// Runs the command.
///
/// # Errors
/// The suite could not be reached, or did not end a case.
pub(crate) fn run(arguments: &ConformanceArgs) -> Result<Report, RunError> {
    let mut suite = Suite {
        target: Target::parse_without_tls(&arguments.url)?,
        wire: Wire::new(CONNECTIONS_MAX)?,
        has_deflate: false,
    };
    let count = suite.converse("/getCaseCount")?.last_message;
    let count = std::str::from_utf8(&count).ok();
    let count = count.and_then(|count| count.parse::<u32>().ok());
    let count =
        count.ok_or_else(|| RunError::Failed("the suite does not say how many cases".into()))?;
    let (mut messages, mut compressed, mut faults) = (0, 0, 0);
    suite.has_deflate = arguments.deflate;
    for case in 1..=count {
        let path = format!("/runCase?case={case}&agent={}", arguments.agent);
        let found = suite.converse(&path)?;
        messages += found.messages;
        compressed += found.compressed;
        faults += u64::from(found.fault.is_some());
    }
    suite.has_deflate = false;
    suite.converse(&format!("/updateReports?agent={}", arguments.agent))?;

    let mut report = Report::new("client of Autobahn|Testsuite".to_owned());
    report.count("cases", "cases", u64::from(count));
    report.count("messages", "messages sent back", messages);
    report.count("compressed_messages", "of them compressed", compressed);
    report.count("faults", "cases with protocol faults of the suite", faults);
    report.note("the verdicts are in the reports of the suite");
    Ok(report)
}

struct Suite {
    target: Target,
    wire: Wire,
    has_deflate: bool,
}

impl Suite {
    /// Opens a connection and sends everything back until the suite ends it.
    fn converse(&mut self, path: &str) -> Result<Conversation, RunError> {
        let failed = |what: &str| RunError::Failed(format!("{what} during {path}"));
        let dialer = Dialer::new(self.target.at_path(path), Dialect::Verbatim, None);
        let dialed = dialer.with_deflate(self.has_deflate).open(false);
        let dialed = dialed.map_err(|error| failed(&error.to_string()))?;
        let slot = self.wire.register_socket(dialed.stream, dialed.tls)?;
        let mut conversation = Conversation {
            reader: Reader::new(self.has_deflate),
            ..Conversation::default()
        };
        conversation.received(slot, &dialed.leftover, self.wire.send_queue());
        let mut patience_ends_ns = now_ns() + PATIENCE_NS;
        while !conversation.has_ended {
            let mut is_silent = true;
            self.wire.turn(
                Rest::until_event(TURN_PATIENCE),
                |event_slot, event, send_queue| {
                    // Another slot is that of an earlier case, which has ended.
                    if event_slot != slot {
                        return;
                    }
                    is_silent = false;
                    match event {
                        Event::Received(bytes) => conversation.received(slot, bytes, send_queue),
                        Event::Closed(_) => conversation.has_ended = true,
                    }
                },
            )?;
            if !is_silent {
                patience_ends_ns = now_ns() + PATIENCE_NS;
            } else if now_ns() > patience_ends_ns {
                return Err(failed("the suite was silent"));
            }
        }
        Ok(conversation)
    }
}

/// One connection.
#[derive(Default)]
struct Conversation {
    reader: Reader,
    inflated: Inflated,
    messages: u64,
    compressed: u64,
    last_message: Vec<u8>,
    fault: Option<Fault>,
    /// A close frame is sent: nothing follows it (RFC 6455 5.5.1), and what arrives counts no more.
    is_closing: bool,
    has_ended: bool,
}

impl Conversation {
    fn received(&mut self, slot: u32, mut bytes: &[u8], send_queue: &mut SendQueue) {
        while !self.is_closing {
            match self.next(&mut bytes, |opcode, payload| {
                send_queue.send_with(slot, |out| frames::encode_client(opcode, payload, out));
            }) {
                Ok(true) => {}
                Ok(false) => return,
                Err(fault) => {
                    let code = fault.close_code().to_be_bytes();
                    send_queue
                        .send_with(slot, |out| frames::encode_client(frames::CLOSE, &code, out));
                    (self.fault, self.is_closing) = (Some(fault), true);
                }
            }
        }
    }

    /// Answers one message or control frame; false when there is none.
    fn next(
        &mut self,
        bytes: &mut &[u8],
        mut answer: impl FnMut(u8, &[u8]),
    ) -> Result<bool, Fault> {
        let Some(frame) = self.reader.next(bytes)? else {
            return Ok(false);
        };
        let message = match frame.opcode {
            frames::PING => {
                answer(frames::PONG, frame.payload);
                return Ok(true);
            }
            frames::CLOSE => {
                // The code is sent back (RFC 6455 5.5.1).
                let code_bytes = frame.payload.len().min(2);
                answer(frames::CLOSE, &frame.payload[..code_bytes]);
                self.is_closing = true;
                return Ok(true);
            }
            frames::TEXT | frames::BINARY => frame.payload,
            opcode @ (frames::COMPRESSED_TEXT | frames::COMPRESSED_BINARY) => {
                self.compressed += 1;
                self.inflated.message(opcode, frame.payload)?
            }
            _ => return Ok(true),
        };
        // The answer is not compressed: that is its sender's choice, message by message (RFC 7692 6.1).
        let opcode = match frame.opcode {
            frames::TEXT | frames::COMPRESSED_TEXT => frames::TEXT,
            _ => frames::BINARY,
        };
        answer(opcode, message);
        self.messages += 1;
        self.last_message.clear();
        self.last_message.extend_from_slice(message);
        Ok(true)
    }
}
