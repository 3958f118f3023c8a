//! Carries out the broker's effects on the connections and the publication writer.

use super::Shard;
use super::client_log::ClientLog;
use super::connection::CloseRequest;
use super::connection_table::ConnectionTable;
use super::owned_subscription::OwnedSubscription;
use super::publication_writer::PublicationWriter;
use super::questions::Awaiting;
use crate::base::{ConnectionId, Now};
use crate::broker::{Command, Effect, Event, HistoryRequest, Publication};
use crate::dialect;

impl Shard {
    /// Passes a command to the broker and carries out its effects.
    pub(super) fn step(&mut self, id: ConnectionId, command: Command<'_>, now: Now) {
        let Self {
            broker,
            connections,
            writer,
            ..
        } = self;
        if matches!(command, Command::Subscribe(subscription) if subscription.recover.is_some()) {
            broker.bound(writer.next_offset());
        }
        if let Some(traces) = &mut connections.traces
            && let Some(connection) = connections.slab.get(id)
        {
            traces.begin_step(id, &command, connection.variant.dialect());
        }
        // What only this process remembers is forgotten with it.
        let is_forgotten = self.is_shutting_down && !writer.process_state().is_offline_kept();
        let mut unknown = None;
        let mut requested = None;
        let mut undecided = None;
        let mut awaiting = None;
        let mut arriving = None;
        broker.step(id, command, now, &mut |effect| match effect {
            Effect::ReadHistory(request) => {
                requested = Some((request.channel.to_owned(), request.after, request.limit))
            }
            Effect::AskAboutToken {
                token,
                source,
                attempt,
            } => unknown = Some((token.to_owned(), source, attempt)),
            Effect::AwaitUser {
                identity,
                source,
                arrival,
            } => arriving = Some((identity.clone(), source, arrival)),
            Effect::AskAboutSubscription(subscription) => {
                undecided = Some(OwnedSubscription::of(subscription));
            }
            Effect::Reply(event) if writer.is_held_back(id, &event) => {}
            Effect::Remembered(_) if is_forgotten => {}
            Effect::AwaitChannel(subscription) => {
                let subscription = OwnedSubscription::of(subscription);
                awaiting = Some(Awaiting::Subscription(Box::new(subscription)));
            }
            Effect::AwaitHistory(request) => {
                awaiting = Some(Awaiting::History {
                    channel: request.channel.to_owned(),
                    after: request.after,
                    limit: request.limit,
                });
            }
            Effect::AwaitRetained(channel) => {
                let channel = channel.to_owned();
                awaiting = Some(Awaiting::Retained { channel });
            }
            Effect::AwaitPresence(request) => {
                awaiting = Some(Awaiting::Presence {
                    channel: request.channel.to_owned(),
                    after: request.after.map(str::to_owned),
                    limit: request.limit,
                });
            }
            effect => apply(connections, writer, id, effect, now),
        });
        if let Some((identity, source, arrival)) = arriving {
            self.await_user(id, (identity, source), arrival, now);
        }
        if let Some(awaiting) = awaiting {
            self.await_channel(id, awaiting, now);
        }
        if let Some((token, source, attempt)) = unknown {
            self.ask_about_token(id, token, (source, attempt), now);
        }
        if let Some(subscription) = undecided {
            self.ask_about_subscription(id, subscription, now);
        }
        if let Some((channel, after, limit)) = requested {
            let request = HistoryRequest {
                channel: &channel,
                after,
                limit,
                is_awaited: true,
            };
            self.read_history(id, request, now);
        }
    }

    /// Counts a message against the session's rate limit; false when it must be dropped.
    pub(super) fn is_within_rate_limit(&mut self, id: ConnectionId, now: Now) -> bool {
        let Self {
            broker,
            connections,
            writer,
            ..
        } = self;
        let mut is_within = true;
        broker.step(id, Command::Message, now, &mut |effect| match effect {
            Effect::DropMessage => is_within = false,
            other => apply(connections, writer, id, other, now),
        });
        is_within
    }
}

/// Publishes that users came or went; ignores other effects, which sessions that have ended do not
/// have.
pub(super) fn announce(writer: &mut PublicationWriter, effect: Effect<'_>, now: Now) {
    if let Effect::Announce(presence) = effect {
        dialect::announcing(presence.on).presence(&presence, &mut |publication| {
            writer.publish_here(&publication.in_scope(presence.tenant.into()), now);
        });
    }
}

pub(super) fn apply(
    connections: &mut ConnectionTable,
    writer: &mut PublicationWriter,
    id: ConnectionId,
    effect: Effect<'_>,
    now: Now,
) {
    match effect {
        Effect::Reply(event) => {
            log_reply(&mut connections.log, id, &event, now);
            connections.reply(id, &event, now);
        }
        Effect::Identified { session, identity } => {
            connections.log.authenticated(session, identity, now);
            connections.end_authentication(id, None);
        }
        Effect::TokenRejected(error) => {
            connections.log.authentication_failed(id, error, now);
            connections.end_authentication(id, Some(error));
        }
        Effect::Admitted => {
            connections.leave_pool(id);
            connections.admitted.push(id);
        }
        Effect::Publish(publication) => {
            publish(connections, writer, id, &publication, now);
        }
        Effect::Announce(_) => announce(writer, effect, now),
        Effect::Ping => connections.ping(id),
        Effect::Remembered(tags) => connections.drop_remembered(id, tags),
        Effect::Close { code, reason } => {
            connections.end(id, CloseRequest::flushing(code, reason), now);
        }
        Effect::SetTimer(at_ms) => connections.set_timer(id, at_ms),
        // Handled in `is_within_rate_limit`.
        Effect::DropMessage => {}
        // Handled in `step`.
        Effect::AskAboutToken { .. }
        | Effect::AwaitUser { .. }
        | Effect::AskAboutSubscription(_)
        | Effect::AwaitChannel(_)
        | Effect::AwaitHistory(_)
        | Effect::AwaitPresence(_)
        | Effect::AwaitRetained(_)
        | Effect::ReadHistory(_) => {}
    }
}

/// Logs what the client is told, if it is among what is logged.
fn log_reply(log: &mut ClientLog, id: ConnectionId, event: &Event<'_>, now: Now) {
    match event {
        Event::Subscribed(subscription) => log.subscription(id, subscription.channel, true, now),
        Event::Unsubscribed(subscription) => log.subscription(id, subscription.channel, false, now),
        Event::Error { rejection } => log.message_rejected(id, *rejection, now),
        _ => {}
    }
}

/// Publishes, and retains what the dialect of the channel retains of it. A value without room or with
/// a key that is too long is counted.
pub(super) fn publish(
    connections: &mut ConnectionTable,
    writer: &mut PublicationWriter,
    id: ConnectionId,
    publication: &Publication<'_>,
    now: Now,
) {
    let span = connections.begin_publication(id);
    let publication = &Publication {
        trace: span.map(|span| span.context),
        ..*publication
    };
    let mut key = String::new();
    let retaining = dialect::retaining(publication, &mut key);
    // Where there are several nodes, each retains what it receives.
    let is_alone = writer.process_state().link.is_none();
    if !retaining.is_valid() || is_alone && !retaining.retain_in(writer.process_state()) {
        connections.counters.retained_rejected.add(1);
    }
    writer.publish(publication, now);
    connections.end_publication(span, publication);
}
