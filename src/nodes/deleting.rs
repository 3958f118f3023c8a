//! Deletes in Redis: the history of a channel, or what was published for a user in all histories.

use super::channels::Bytes;
use super::connection::{Connection, Master};
use super::message;
use super::subscribing::lifetime_ms;
use crate::base::limits::{NODE_CATCH_UP_MESSAGES, NODE_DELETION_MS};
use crate::base::{IsIt, NodeDeletion};
use redis::{Cmd, RedisError, Value, cmd};
use std::time::Duration;
use tokio::time::timeout;

/// Names that Redis looks at for one answer, about: a long look would hold up others.
const NAMES_PER_LOOK: usize = 1_000;

/// Deletes; returns the number of the deletion among those in all histories, 0 = it is none of these.
pub(super) async fn delete(
    connection: &mut Connection,
    deletion: &NodeDeletion,
    ttl: Duration,
) -> Result<u64, RedisError> {
    match deletion {
        NodeDeletion::Channel { name, age_ms } => {
            let ttl_ms = lifetime_ms(*age_ms, ttl);
            let command = connection.scripts.delete(&connection.names, name, ttl_ms);
            connection.run_one(command).await.map(|_| 0)
        }
        NodeDeletion::Where(is_it) => {
            let limit = Duration::from_millis(NODE_DELETION_MS);
            let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
            let deleted = timeout(limit, delete_where(connection, is_it)).await;
            deleted.unwrap_or_else(|_| Err(timed_out()))
        }
    }
}

/// How many deletions in all histories there were; `None` if what Redis has is no count that it has made.
pub(super) async fn deletions(connection: &mut Connection) -> Result<Option<u64>, RedisError> {
    let mut command = cmd("GET");
    command.arg(connection.names.deletions());
    let value = connection.run_one(command).await?;
    Ok(match value {
        Value::Nil => Some(0),
        value => bytes(value).and_then(|text| read_count(&text)),
    })
}

/// A count of Redis: a signed number of 64 bits, which begins at 0.
fn read_count(text: &[u8]) -> Option<u64> {
    let count: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    u64::try_from(count).ok()
}

async fn delete_where(connection: &mut Connection, is_it: &IsIt) -> Result<u64, RedisError> {
    for master in connection.masters().await? {
        let mut cursor = b"0".to_vec();
        loop {
            let (next, keys) = look(connection, &master, &cursor).await?;
            for key in keys {
                delete_in(connection, &key, is_it).await?;
            }
            if next == b"0" {
                break;
            }
            cursor = next;
        }
    }
    // Last: who sees the count reads histories without what is deleted.
    let mut command = cmd("INCR");
    command.arg(connection.names.deletions());
    match connection.run_one(command).await? {
        Value::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
        _ => Ok(0),
    }
}

/// Some names of histories, and where to go on.
async fn look(
    connection: &mut Connection,
    master: &Master,
    cursor: &[u8],
) -> Result<(Bytes, Vec<Bytes>), RedisError> {
    let mut command = cmd("SCAN");
    command.arg(cursor).arg("COUNT").arg(NAMES_PER_LOOK);
    command.arg("MATCH").arg(connection.names.histories());
    let value = connection.run_at(master, command).await?;
    let found = array(value).and_then(|parts| <[Value; 2]>::try_from(parts).ok());
    let found = found.and_then(|[cursor, keys]| Some((bytes(cursor)?, array(keys)?)));
    let (cursor, keys) = found.unwrap_or_else(|| (b"0".to_vec(), Vec::new()));
    Ok((cursor, keys.into_iter().filter_map(bytes).collect()))
}

/// Deletes what it names in one history.
async fn delete_in(
    connection: &mut Connection,
    key: &[u8],
    is_it: &IsIt,
) -> Result<(), RedisError> {
    let Some(name) = connection.names.name_of_history(key).map(str::to_owned) else {
        return Ok(());
    };
    let mut from = b"-".to_vec();
    loop {
        let mut command = cmd("XRANGE");
        command.arg(key).arg(&from).arg("+");
        command.arg("COUNT").arg(NODE_CATCH_UP_MESSAGES);
        let entries = array(connection.run_one(command).await?).unwrap_or_default();
        let count = entries.len();
        let entries: Vec<_> = entries.into_iter().filter_map(entry).collect();
        let ids = entries.iter().filter(|(_, message)| {
            let message = message::read(message);
            message.is_some_and(|message| is_it(&name, message.envelope))
        });
        let ids: Vec<_> = ids.map(|(id, _)| id).collect();
        if !ids.is_empty() {
            let mut command = cmd("XDEL");
            command.arg(key).arg(ids);
            connection.run_one(command).await?;
        }
        let Some((last, _)) = entries.last().filter(|_| count == NODE_CATCH_UP_MESSAGES) else {
            return Ok(());
        };
        from = [b"(", &last[..]].concat();
    }
}

/// The id and the message of an entry of a stream.
fn entry(value: Value) -> Option<(Bytes, Bytes)> {
    let [id, fields] = <[Value; 2]>::try_from(array(value)?).ok()?;
    let [_, message] = <[Value; 2]>::try_from(array(fields)?).ok()?;
    Some((bytes(id)?, bytes(message)?))
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

impl Connection {
    /// Runs one command.
    async fn run_one(&mut self, command: Cmd) -> Result<Value, RedisError> {
        let result = self.run(vec![command]).await.pop();
        result.unwrap_or(Ok(Value::Nil))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_one_that_redis_can_make() {
        assert_eq!(read_count(b"0"), Some(0));
        assert_eq!(read_count(b"9223372036854775807"), Some(i64::MAX as u64));
        for text in [
            &b""[..],
            b"-1",
            b"x",
            b"\xff",
            b"9223372036854775808",
            b"18446744073709551615",
        ] {
            assert_eq!(read_count(text), None, "{text:?}");
        }
    }
}
