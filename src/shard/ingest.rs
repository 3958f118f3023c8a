//! From the bytes of a session to commands for the broker.

use super::connection::{Ending, Farewell, Phase};
use super::{Request, Shard};
use crate::base::counters::ProtocolFault;
use crate::base::limits::JSON_BYTES_KEPT;
use crate::base::{ConnectionId, FrameRun, Now};
use crate::broker::{Command, Effect, Refusal};
use crate::dialect;
use crate::json::JsonReader;
use crate::ws::{Decoder, Incoming, MessageLimits, Opcode, frame};

impl Shard {
    /// The socket of `id` gave `bytes`; they may be overwritten.
    pub fn receive(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        let Some(connection) = self.machine.connections.get_mut(id) else {
            return;
        };
        let counters = &self.machine.counters;
        counters.bytes_received.add(bytes.len() as u64);
        match connection.phase {
            Phase::Head(_) => self.receive_head(id, bytes, now),
            Phase::Open => self.receive_frames(id, bytes, now),
            Phase::Http => {
                let request = Request::Http(id, bytes.to_vec());
                self.machine.requests.push(request);
            }
            Phase::Closing(_) | Phase::Lingering(_) => self.await_close_frame(id, bytes),
            Phase::Gone => {}
        }
        self.settle(now);
    }

    pub(super) fn receive_frames(&mut self, id: ConnectionId, bytes: &mut [u8], now: Now) {
        self.step(id, Command::Heard, now);
        let Some(connection) = self.machine.connections.get_mut(id) else {
            return;
        };
        let mut decoder = std::mem::take(&mut connection.decoder);
        let mut consumed = 0;
        while self.machine.is_open(id) {
            let limits = self.message_limits(id);
            match decoder.step(bytes, &mut consumed, limits) {
                Ok(Some(incoming)) => self.take(id, incoming, now),
                Ok(None) => return self.keep_decoder(id, decoder),
                Err(fault) => return self.end_for(id, fault, now),
            }
        }
        // We are closing, but the answer to our close frame may be among these bytes already.
        self.keep_decoder(id, decoder);
        self.await_close_frame(id, &mut bytes[consumed..]);
    }

    /// Reads what comes after we have begun to close a connection, for the peer's close frame alone;
    /// whoever owes none is not read at all.
    fn await_close_frame(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let limits = self.message_limits(id);
        let Some(connection) = self.machine.connections.get_mut(id) else {
            return;
        };
        let (Phase::Closing(farewell) | Phase::Lingering(farewell)) = connection.phase else {
            return;
        };
        if farewell != Farewell::CloseFrame {
            return;
        }
        let mut consumed = 0;
        loop {
            match connection.decoder.step(bytes, &mut consumed, limits) {
                Ok(Some(Incoming::Close(_))) | Err(_) => return self.machine.say_farewell(id),
                Ok(Some(_)) => {}
                Ok(None) => return,
            }
        }
    }

    fn message_limits(&self, id: ConnectionId) -> MessageLimits {
        MessageLimits {
            message_bytes_max: self.broker.message_bytes_max(id),
        }
    }

    fn keep_decoder(&mut self, id: ConnectionId, decoder: Decoder) {
        if let Some(connection) = self.machine.connections.get_mut(id) {
            connection.decoder = decoder;
        }
    }

    fn take(&mut self, id: ConnectionId, incoming: Incoming<'_>, now: Now) {
        match incoming {
            Incoming::Text(text) => {
                self.machine.counters.messages_received.add(1);
                self.message(id, text, now);
            }
            Incoming::Binary(_) => {
                self.machine.counters.messages_received.add(1);
                self.end_for(id, ProtocolFault::Binary, now);
            }
            Incoming::Ping(payload) => {
                let pong = FrameRun::reply(&frame::control(Opcode::Pong, payload));
                self.machine.send_control(id, pong);
            }
            Incoming::Pong => {}
            Incoming::Close(close) => self.machine.end(id, Ending::echo(close), now),
        }
    }

    fn message(&mut self, id: ConnectionId, text: &str, now: Now) {
        let Self {
            broker,
            json,
            scratch,
            machine,
            ..
        } = self;
        let Some(connection) = machine.connections.get(id) else {
            return;
        };
        let dialect = dialect::of(connection.dialect);
        let mut apply = |effect: Effect<'_>| machine.apply(id, effect, now);
        if !broker.admits_message(id, now, &mut apply) {
            return;
        }
        let document = json.parse(text);
        let command = document
            .as_ref()
            .map_err(|fault| Refusal::from(*fault))
            .and_then(|document| dialect.decode(&document.object()?, scratch))
            .unwrap_or_else(Command::Malformed);
        broker.step(id, command, now, &mut apply);
        if text.len() > JSON_BYTES_KEPT {
            // One large message should not make the shard large for good.
            *json = JsonReader::default();
        }
    }

    fn step(&mut self, id: ConnectionId, command: Command<'_>, now: Now) {
        let Self {
            broker, machine, ..
        } = self;
        broker.step(id, command, now, &mut |effect| {
            machine.apply(id, effect, now)
        });
    }

    fn end_for(&mut self, id: ConnectionId, fault: ProtocolFault, now: Now) {
        self.machine.counters.protocol_faults.of(fault).add(1);
        self.machine.end(id, Ending::protocol_fault(fault), now);
    }
}
