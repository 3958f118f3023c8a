//! Publications on their way to Redis, and what becomes of those that Redis does not take.

use super::connection::{Connection, Failure, failure};
use super::engine::Numbered;
use super::message;
use super::run::{Event, Runner, State, TICK};
use super::subscribing::lifetime_ms;
use crate::base::limits::{NODE_BATCH_MAX, NODE_END_MS, NODE_TASKS_PER_TURN};
use crate::base::{NodeDrop, Outgoing, Task};
use redis::{Cmd, RedisError, Value};
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Publications on their way: those of each command, in the order of the commands.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) units: Vec<Vec<Numbered>>,
    /// Whether they take room in the queue of the link.
    pub(super) is_counted: bool,
    /// Who is told when all are there.
    pub(super) marks: Vec<oneshot::Sender<()>>,
}

impl Runner {
    /// Sends the next publications, or delivers them here while Redis is away.
    pub(super) fn publish(&mut self) {
        let State::Up(connection) = &self.state else {
            return self.publish_alone();
        };
        let mut connection = connection.clone();
        if !self.in_flight.units.is_empty() {
            return;
        }
        let is_counted = !self.engine.has_backlog();
        let mut marks = Vec::new();
        let publications = match is_counted {
            false => self.engine.take_backlog(NODE_BATCH_MAX),
            true => {
                let tasks = self.engine.link().take_tasks(NODE_BATCH_MAX);
                let of_task = |task| match task {
                    Task::Publish(number, outgoing) => Some((number, outgoing)),
                    Task::Mark(sender) => {
                        marks.push(sender);
                        None
                    }
                };
                tasks.into_iter().filter_map(of_task).collect()
            }
        };
        if publications.is_empty() {
            return;
        }
        let (commands, units) = self.commands(publications, &connection);
        self.in_flight = InFlight {
            units,
            is_counted,
            marks,
        };
        self.spawn(async move { Event::Published(connection.run(commands).await) });
    }

    /// The commands that send publications, and those of each.
    fn commands(
        &self,
        publications: Vec<Numbered>,
        connection: &Connection,
    ) -> (Vec<Cmd>, Vec<Vec<Numbered>>) {
        let node = self.engine.link().node();
        let mut units: Vec<Vec<Numbered>> = Vec::new();
        let mut by_tag = HashMap::new();
        for publication in publications {
            // One command for all of a channel.
            let at = *by_tag.entry(publication.1.tag).or_insert(units.len());
            if at == units.len() {
                units.push(Vec::new());
            }
            units[at].push(publication);
        }
        let commands = units.iter().map(|unit| {
            let (_, first) = &unit[0];
            let names = &connection.names;
            let retain = unit.iter().filter_map(|(number, it)| {
                let change = it.retain.as_ref()?;
                Some((*number, &*change.key, change.value.as_deref()))
            });
            let retain: Vec<_> = retain.collect();
            let Some(limits) = first.history else {
                let messages = unit
                    .iter()
                    .map(|(number, it)| message::without_position((node, *number), &it.envelope));
                let messages: Vec<_> = messages.collect();
                let scripts = &connection.scripts;
                return scripts.publish_only(names, &first.channel, (node, &messages), &retain);
            };
            let tails = unit
                .iter()
                .map(|(number, it)| message::tail((node, *number), &it.envelope));
            let tails: Vec<_> = tails.collect();
            let ttl_ms = lifetime_ms(limits.age_ms, self.config.history_ttl);
            let scripts = &connection.scripts;
            let limits = (limits, ttl_ms);
            scripts.publish(names, &first.channel, limits, (node, &tails), &retain)
        });
        (commands.collect(), units)
    }

    pub(super) fn published(&mut self, results: Vec<Result<Value, RedisError>>, now_ms: u64) {
        let InFlight {
            units,
            is_counted,
            marks,
        } = std::mem::take(&mut self.in_flight);
        let mut left = Vec::new();
        let mut reason = None;
        for (unit, result) in units.into_iter().zip(results) {
            match result {
                Ok(_) => self.sent(unit, is_counted),
                Err(error) if failure(&error) == Failure::Rejected => {
                    self.rejected(unit, is_counted, &error);
                }
                Err(error) => {
                    reason = Some(error);
                    left.push(unit);
                }
            }
        }
        drop(marks);
        if let Some(error) = reason {
            self.in_flight = InFlight {
                units: left,
                is_counted,
                marks: Vec::new(),
            };
            self.lose(&error.to_string(), now_ms);
        }
    }

    fn sent(&mut self, unit: Vec<Numbered>, is_counted: bool) {
        if is_counted {
            self.release(&unit);
        }
        let link = self.engine.link();
        link.counters.sent.add(unit.len() as u64);
        for (number, mut outgoing) in unit {
            if let Some(sent) = outgoing.sent.take() {
                sent(true);
            }
            self.engine.await_return((number, outgoing));
        }
    }

    /// Redis does not take some publications: they are delivered here.
    fn rejected(&mut self, unit: Vec<Numbered>, is_counted: bool, error: &RedisError) {
        if is_counted {
            self.release(&unit);
        }
        let link = self.engine.link();
        if link.counters.dropped(NodeDrop::Rejected) == 0 {
            tracing::error!(%error, "Redis rejects publications: they are delivered on this node only");
        }
        for _ in &unit {
            link.counters.drop_one(NodeDrop::Rejected);
        }
        for publication in unit {
            self.engine.deliver_rejected(publication);
        }
    }

    pub(super) fn publish_alone(&mut self) {
        // What waits for room is bounded by the queue behind it.
        while self.engine.deliveries.is_empty() {
            let tasks = self.engine.link().take_tasks(NODE_TASKS_PER_TURN);
            if tasks.is_empty() {
                return;
            }
            for task in tasks {
                // Who waits for a mark is told by its end.
                if let Task::Publish(number, outgoing) = task {
                    self.engine.link().release(outgoing.bytes());
                    self.engine.publish_alone((number, outgoing));
                }
            }
        }
    }

    pub(super) fn release(&self, publications: &[Numbered]) {
        let bytes = publications.iter().map(|(_, it)| it.bytes()).sum();
        self.engine.link().release(bytes);
    }

    /// Sends what is left, for some seconds at most.
    pub(super) async fn end(mut self) {
        let until_ms = self.now_ms() + NODE_END_MS;
        while self.now_ms() < until_ms {
            let is_up = matches!(self.state, State::Up(_));
            let has_work = !self.in_flight.units.is_empty()
                || self.engine.has_backlog()
                || self.engine.link().bytes() > 0
                || self.users.is_busy()
                || self.engine.link().has_user_changes();
            if !is_up || !has_work {
                break;
            }
            self.publish();
            self.serve_users(until_ms);
            tokio::select! {
                event = self.received.recv() => {
                    if let Some((generation, event)) = event {
                        self.handle(generation, event);
                    }
                }
                () = tokio::time::sleep(TICK) => {}
            }
        }
        self.take_leave().await;
        let in_flight = std::mem::take(&mut self.in_flight.units);
        let tasks = self.engine.link().close();
        let left = tasks.into_iter().filter_map(|task| match task {
            Task::Publish(number, outgoing) => Some((number, outgoing)),
            Task::Mark(_) => None,
        });
        let left: Vec<(u64, Outgoing)> = left.collect();
        for publication in in_flight.into_iter().flatten().chain(left) {
            self.engine.keep(publication);
        }
        self.engine.drop_backlog();
        let dropped = self.engine.link().counters.dropped(NodeDrop::Stopped);
        if dropped > 0 {
            tracing::warn!(
                redis = %self.connector.address, publications = dropped,
                "the server has ended while Redis was away: the other nodes do not receive these publications"
            );
        }
    }
}
