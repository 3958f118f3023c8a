//! A client that keeps what it was told until it is compared.

use super::texts::CONNECTION_ID;
use crate::client::whole_frame;
use fanwire::base::{ConnectionId, DialectId};
use serde_json::Value;

pub(super) struct Client {
    pub(super) shard: usize,
    pub(super) id: ConnectionId,
    pub(super) dialect: DialectId,
    /// It has sent a close frame, or its end.
    pub(super) has_closed: bool,
    pub(super) is_gone: bool,
    /// It is gone, and all that it was told has been compared.
    pub(super) is_compared: bool,
    unread: Vec<u8>,
    is_upgraded: bool,
    /// Messages since the last comparison.
    pub(super) texts: Vec<Value>,
    /// Code and reason of the close frame.
    pub(super) close: Option<(u16, String)>,
}

impl Client {
    pub(super) fn new(shard: usize, id: ConnectionId, dialect: DialectId) -> Self {
        Self {
            shard,
            id,
            dialect,
            has_closed: false,
            is_gone: false,
            is_compared: false,
            unread: Vec::new(),
            is_upgraded: false,
            texts: Vec::new(),
            close: None,
        }
    }

    /// Takes bytes from the server; a send has whole frames here, as sockets take everything.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let mut at = 0;
        if !self.is_upgraded {
            assert!(self.unread.starts_with(b"HTTP/1.1 101 "));
            let mut windows = self.unread.windows(4);
            at = windows.position(|window| window == b"\r\n\r\n").unwrap() + 4;
            self.is_upgraded = true;
        }
        while let Some((opcode, payload)) = whole_frame(&self.unread[at..]) {
            assert_eq!(self.close, None, "nothing comes after the close frame");
            let payload = at + payload.start..at + payload.end;
            at = payload.end;
            let payload = &self.unread[payload];
            match opcode {
                1 => {
                    let mut text: Value = serde_json::from_slice(payload).unwrap();
                    if text["type"] == "connection" {
                        let id = text["connection_id"].take();
                        let id = id.as_str().unwrap_or_default();
                        assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
                        text["connection_id"] = CONNECTION_ID.into();
                    }
                    self.texts.push(text);
                }
                8 => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let reason = std::str::from_utf8(&payload[2..]).unwrap();
                    self.close = Some((code, reason.to_owned()));
                }
                opcode => panic!("opcode {opcode} from the server"),
            }
        }
        assert_eq!(at, self.unread.len(), "whole frames only");
        self.unread.clear();
    }
}
