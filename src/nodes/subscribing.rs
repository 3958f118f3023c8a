//! Channels are subscribed to in Redis and left, and what was missed on them is read.

use super::channels::Bytes;
use super::connection::{Connection, Failure, failure};
use super::engine::Missing;
use super::message::OFFSETS_MAX;
use super::run::{Event, Runner};
use super::script::CatchUp;
use crate::base::limits::{NODE_CATCH_UP_MESSAGES, NODE_CATCH_UPS_AT_ONCE};
use crate::base::{ChannelTag, Position};
use redis::{RedisError, Value};
use std::sync::Arc;
use std::time::Duration;

impl Runner {
    pub(super) fn subscribe_and_read(&mut self) {
        let Some(connection) = self.connection() else {
            return;
        };
        self.change_subscriptions(&connection);
        self.read_retained(&connection);
        // A little at a time, so that an answer is there in time and has room.
        let count = self.engine.missing.len().min(NODE_CATCH_UPS_AT_ONCE);
        if count > 0 && !self.is_reading && self.engine.deliveries.is_empty() {
            self.is_reading = true;
            let some: Vec<_> = self.engine.missing.drain(..count).collect();
            self.catch_up(&some, connection);
        }
    }

    /// Leaves the channels that are to be left, or subscribes to those that are wanted.
    fn change_subscriptions(&mut self, connection: &Connection) {
        if self.is_changing {
            return;
        }
        let to_leave = std::mem::take(&mut self.to_leave);
        if !to_leave.is_empty() {
            self.is_changing = true;
            let channels = to_leave.iter().map(|name| connection.names.channel(name));
            let channels: Vec<_> = channels.collect();
            let mut connection = connection.clone();
            return self.spawn(async move {
                Event::Unsubscribed(connection.unsubscribe(&channels).await)
            });
        }
        let begun = self.engine.begin_subscribing();
        if !begun.is_empty() {
            self.is_changing = true;
            let names = begun.iter().map(|(_, name)| connection.names.channel(name));
            let names: Vec<_> = names.collect();
            let tags = begun.into_iter().map(|(tag, _)| tag).collect();
            let mut connection = connection.clone();
            self.spawn(async move { Event::Subscribed(tags, connection.subscribe(&names).await) });
        }
    }

    /// Reads the retained values of channels that may have some: few have.
    fn read_retained(&mut self, connection: &Connection) {
        let tags = std::mem::take(&mut self.engine.unread_retained);
        if tags.is_empty() {
            return;
        }
        let channels = &mut self.engine.channels;
        let names = tags.iter().filter_map(|tag| {
            let channel = channels.get_mut(*tag)?;
            Some((*tag, connection.names.read_retained(&channel.name)))
        });
        let (tags, commands): (Vec<_>, Vec<_>) = names.unzip();
        let mut connection = connection.clone();
        self.spawn(async move {
            let answers = connection.run(commands).await;
            Event::RetainedRead(tags.into_iter().zip(answers).collect())
        });
    }

    pub(super) fn retained_read(
        &mut self,
        results: Vec<(ChannelTag, Result<Value, RedisError>)>,
        now_ms: u64,
    ) {
        for (tag, result) in results {
            let values = match result {
                Ok(value) => redis::from_redis_value(value).unwrap_or_default(),
                Err(error) if failure(&error) == Failure::Rejected => {
                    tracing::error!(%error, "Redis does not show the retained values of a channel");
                    Vec::new()
                }
                Err(error) => return self.lose(&error.to_string(), now_ms),
            };
            self.engine.retained_read(tag, &values, now_ms);
        }
    }

    fn catch_up(&mut self, missing: &[Missing], mut connection: Connection) {
        let ttl = self.config.history_ttl;
        let wanted: Vec<_> = missing
            .iter()
            .filter_map(|Missing { tag, after }| {
                let channel = self.engine.channels.get_mut(*tag)?;
                let after = after.map_or((0, 0), |after| (after.epoch, after.offset));
                let history = channel.history.map_or(0, |limits| limits.age_ms);
                Some((
                    *tag,
                    Arc::clone(&channel.name),
                    after,
                    lifetime_ms(history, ttl),
                ))
            })
            .collect();
        self.spawn(async move {
            let requests = wanted.iter().map(|(_, name, after, ttl_ms)| CatchUp {
                name,
                ttl_ms: *ttl_ms,
                after: *after,
                count_max: NODE_CATCH_UP_MESSAGES,
            });
            let requests: Vec<_> = requests.collect();
            let answers = connection.catch_up(&requests).await;
            let tags = wanted.iter().map(|(tag, ..)| *tag);
            Event::CaughtUp(tags.zip(answers).collect())
        });
    }

    pub(super) fn caught_up(
        &mut self,
        results: Vec<(ChannelTag, Result<Value, RedisError>)>,
        now_ms: u64,
    ) {
        self.is_reading = false;
        for (tag, result) in results {
            let answer = match result.map(read_answer) {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.lose("Redis gave an answer that is not one", now_ms),
                Err(error) if failure(&error) == Failure::Rejected => {
                    // Its publications come in, without what was before.
                    tracing::error!(%error, "Redis does not show the history of a channel");
                    self.engine.make_live(tag, now_ms);
                    continue;
                }
                Err(error) => return self.lose(&error.to_string(), now_ms),
            };
            let (newest, messages) = answer;
            let is_all = messages.len() < NODE_CATCH_UP_MESSAGES;
            self.engine.caught_up(tag, newest, messages, is_all, now_ms);
        }
    }

    pub(super) fn unsubscribe_unwanted(&mut self, now_ms: u64) {
        let delay_ms = u64::try_from(self.config.leave_delay.as_millis()).unwrap_or(u64::MAX);
        let names = self.engine.take_unwanted(delay_ms, now_ms);
        if self.connection().is_some() {
            self.to_leave.extend(names);
        }
    }
}

/// How long Redis keeps a channel without publications, milliseconds.
pub(super) fn lifetime_ms(age_ms: u64, ttl: Duration) -> u64 {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    age_ms.max(ttl_ms)
}

/// The answer of the script that reads a history: up to where it reaches, and the messages.
fn read_answer(value: Value) -> Option<(Position, Vec<Bytes>)> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [
        Value::BulkString(epoch),
        Value::BulkString(newest),
        Value::Array(messages),
    ] = <[Value; 3]>::try_from(parts).ok()?
    else {
        return None;
    };
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let messages = messages.into_iter().map(|message| match message {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    let position = Position {
        epoch: u32::try_from(number(&epoch)?).ok()?,
        offset: number(&newest).filter(|offset| *offset < OFFSETS_MAX)?,
    };
    Some((position, messages.collect::<Option<_>>()?))
}
