//! The text in which a node tells who is on a channel there.
//!
//! ```text
//!   fwp1 0123456789abcdef c {"sessions":3,"users":[["ann",2],["bob",0]]}
//!        ├ node           ├ c = what has changed, a = all
//! ```

use crate::base::{NodePresence, Telling};
use redis::Value;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// How such a text begins.
pub(super) const BEGIN: &[u8] = b"fwp1 ";
/// The field with the count of all sessions, in what Redis keeps; those of users begin otherwise.
pub(super) const SESSIONS_FIELD: &str = "s";
/// How the field of a user begins.
pub(super) const USER_FIELD: &str = "u";

#[derive(Serialize, Deserialize)]
struct Told<'a> {
    sessions: u64,
    #[serde(borrow)]
    users: Vec<(Cow<'a, str>, u32)>,
}

/// The text of what a node tells.
pub(super) fn write(node: u64, presence: &NodePresence, telling: Telling) -> Vec<u8> {
    let users = presence.users.iter();
    let told = Told {
        sessions: presence.sessions,
        users: users
            .map(|(user, count)| (Cow::Borrowed(&**user), *count))
            .collect(),
    };
    let letter = match telling {
        Telling::Changes => 'c',
        Telling::All => 'a',
    };
    let mut text = BEGIN.to_vec();
    text.extend_from_slice(format!("{node:016x} {letter} ").as_bytes());
    let json = serde_json::to_vec(&told).expect("numbers and texts can be written as JSON");
    text.extend_from_slice(&json);
    text
}

/// What a node tells, by its text; `None` if it is none.
pub(super) fn read(text: &[u8]) -> Option<(u64, NodePresence, Telling)> {
    let text = std::str::from_utf8(text.strip_prefix(BEGIN)?).ok()?;
    let (node, rest) = text.split_once(' ')?;
    let (letter, json) = rest.split_once(' ')?;
    let telling = match letter {
        "c" => Telling::Changes,
        "a" => Telling::All,
        _ => return None,
    };
    let told: Told<'_> = serde_json::from_str(json).ok()?;
    let users = told.users.iter();
    let presence = NodePresence {
        sessions: told.sessions,
        users: users
            .map(|(user, count)| (Arc::from(&**user), *count))
            .collect(),
    };
    Some((node_number(node)?, presence, telling))
}

/// The number of a node as names in Redis have it.
pub(super) fn node_name(node: u64) -> String {
    format!("{node:016x}")
}

pub(super) fn node_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok()
}

/// What Redis keeps of a node on a channel: fields and counts.
pub(super) fn read_kept(value: Value) -> Option<NodePresence> {
    let pairs: Vec<(String, u64)> = redis::from_redis_value(value).ok()?;
    let mut presence = NodePresence::default();
    for (field, count) in pairs {
        if field == SESSIONS_FIELD {
            presence.sessions = count;
        } else if let Some(user) = field.strip_prefix(USER_FIELD) {
            let count = u32::try_from(count).ok()?;
            presence.users.push((user.into(), count));
        }
    }
    Some(presence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_reads_as_it_was_written() {
        let presence = NodePresence {
            sessions: 3,
            users: vec![("an\"n ü".into(), 2), ("bob".into(), 0)],
        };
        for telling in [Telling::Changes, Telling::All] {
            let text = write(0xabc, &presence, telling);
            assert_eq!(read(&text), Some((0xabc, presence.clone(), telling)));
        }
        for text in [
            "",
            "fwp1 ",
            "fwp1 1 x {}",
            "fwp1 g c {\"sessions\":1,\"users\":[]}",
            "fwp1 1 c {\"sessions\":-1,\"users\":[]}",
            "fwp1 1 c {\"sessions\":1,\"users\":[[\"a\",4294967296]]}",
            "fwp2 1 c {\"sessions\":1,\"users\":[]}",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_hash_reads_as_what_a_node_has_there() {
        let text = |text: &str| Value::BulkString(text.into());
        let map = Value::Map(vec![
            (text("s"), text("4")),
            (text("us"), text("3")),
            (text("x"), text("3")),
        ]);
        let expected = NodePresence {
            sessions: 4,
            users: vec![("s".into(), 3)],
        };
        assert_eq!(read_kept(map), Some(expected));
        assert_eq!(
            read_kept(Value::Map(Vec::new())),
            Some(NodePresence::default())
        );
        assert_eq!(read_kept(Value::Map(vec![(text("s"), text("x"))])), None);
    }
}
