//! Questions that a shard has answered elsewhere while it serves others.
//!
//! ```text
//!   token that nobody here knows ──┐                                        ┌─▶ carried out
//!   asynchronous handler, callback ┴─▶ question ─▶ integration thread ─answer┴─▶ the session goes on
//!                       the session's input waits ──────────────────────────────▲
//! ```
//!
//! No input of a session is handled while it has a question, and the handler for new sessions is called
//! when it is known whose the token of the handshake is: so a session has one at most. The answer counts
//! also when the session has ended meanwhile: what its handler publishes is published.

use super::Shard;
use super::async_session::AsyncSession;
use super::hooks::Outcome;
use super::input::WaitsFor;
use super::owned_subscription::OwnedSubscription;
use super::session::{HandlerError, SessionAction};
use crate::auth::Identity;
use crate::base::counters::{CloseReason, TokenError};
use crate::base::{ConnectionId, DialectId, Now, Position, TraceContext, UserArrival, network_of};
use crate::broker::{Attempt, Command, HistoryRequest, PresenceRequest, Rejection, TokenSource};
use futures_lite::FutureExt;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

/// A future whose output may be made on another thread.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A question, and the future that answers it.
pub struct Question {
    /// The shard that asks.
    pub shard: u16,
    /// Which question it is.
    pub key: QuestionKey,
    /// Who answers it.
    pub kind: QuestionKind,
    /// The address of the client, or its IPv6 network.
    pub client: IpAddr,
    /// Its answer.
    pub future: BoxFuture<Answer>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Question {{ {:?} }}", self.key)
    }
}

/// Who answers a question. Those of one kind never wait for those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    /// Who may know whose a token is: the program, or the authentication callback.
    Token,
    /// An asynchronous handler of the program, or a callback that is one.
    Handler,
    /// The thread that speaks to the other nodes.
    Node,
}

/// The session that waits, and the number of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionKey {
    /// The session.
    pub id: ConnectionId,
    number: u64,
}

/// The answer to a question.
#[derive(Debug)]
pub struct Answer(Content);

#[derive(Debug)]
enum Content {
    Here,
    Admitted(bool),
    Token(Result<Identity, TokenError>),
    Handler(Vec<SessionAction>, Outcome),
}

/// A token that nobody here knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownToken {
    /// The token.
    pub token: String,
    /// The dialect of the session.
    pub dialect: DialectId,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The span in which it is asked, if that is traced.
    pub trace: Option<TraceContext>,
}

/// What a question is about.
#[derive(Debug)]
enum Subject {
    Token(TokenSource, Attempt),
    Handler {
        is_connect: bool,
        /// The tenant whose channels the handler publishes on, if tenants are isolated.
        tenant: Option<Box<str>>,
    },
    Subscription {
        subscription: Box<OwnedSubscription>,
        /// The user for whom it is decided.
        user: Option<Box<str>>,
    },
    Channel(Awaiting),
    User(Box<Identity>, TokenSource),
}

/// What waits until the publications of other nodes on a channel come in.
#[derive(Debug)]
pub(super) enum Awaiting {
    Subscription(Box<OwnedSubscription>),
    History {
        channel: String,
        after: Option<Position>,
        limit: Option<u32>,
    },
    Presence {
        channel: String,
        after: Option<String>,
        limit: Option<u32>,
    },
    Retained {
        channel: String,
    },
}

/// The questions of a shard that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<(ConnectionId, u64), Subject>,
    count: u64,
}

impl Questions {
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        let of_session = (id, 0)..=(id, u64::MAX);
        !self.open.is_empty() && self.open.range(of_session).next().is_some()
    }
}

impl Shard {
    /// Asks whose token this is.
    pub(super) fn ask_about_token(
        &mut self,
        id: ConnectionId,
        token: String,
        (source, attempt): (TokenSource, Attempt),
        now: Now,
    ) {
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        let traces = self.connections.traces.as_ref();
        let unknown = UnknownToken {
            token,
            dialect: view.dialect,
            peer: view.peer,
            trace: traces.and_then(|traces| traces.authentication(id)),
        };
        let client = view.peer.ip();
        drop(view);
        let Some(answer) = self.hooks.authenticate(unknown) else {
            return self.tell_verified(id, (source, attempt), Err(TokenError::Unconfigured), now);
        };
        let future = Box::pin(async move { Answer(Content::Token(answer.await)) });
        self.ask(id, client, Subject::Token(source, attempt), future);
    }

    fn tell_verified(
        &mut self,
        id: ConnectionId,
        (source, attempt): (TokenSource, Attempt),
        answer: Result<Identity, TokenError>,
        now: Now,
    ) {
        let verified = self.broker.end_attempt(attempt, answer, now);
        let verified = verified.as_ref().map_err(|error| *error);
        let is_awaited = false;
        let command = Command::TokenVerified {
            verified,
            source,
            is_awaited,
        };
        self.step(id, command, now);
    }

    /// Has an asynchronous handler of messages answer.
    pub(super) fn ask_about_message(
        &mut self,
        id: ConnectionId,
        session: AsyncSession,
        answer: BoxFuture<Result<(), HandlerError>>,
    ) {
        self.ask_handler(id, false, session, answer);
    }

    /// Has the callback decide whether the session may subscribe to a channel.
    pub(super) fn ask_about_subscription(
        &mut self,
        id: ConnectionId,
        subscription: OwnedSubscription,
        now: Now,
    ) {
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        let session = AsyncSession::new(&view);
        drop(view);
        let channel = subscription.channel.clone();
        let Some(answer) = self.hooks.subscribe_async(session.clone(), channel) else {
            return self.step(id, Command::Malformed(Rejection::HandlerFailed), now);
        };
        let subject = Subject::Subscription {
            subscription: Box::new(subscription),
            user: session.user_id().map(Into::into),
        };
        let client = session.peer().ip();
        self.ask(id, client, subject, handled(session, answer));
    }

    /// Waits until the publications of other nodes on a channel come in, or may not for long.
    pub(super) fn await_channel(&mut self, id: ConnectionId, awaiting: Awaiting, now: Now) {
        let (channel, position) = match &awaiting {
            Awaiting::Subscription(subscription) => (&subscription.channel, subscription.recover),
            Awaiting::History { channel, after, .. } => (channel, *after),
            Awaiting::Presence { channel, .. } | Awaiting::Retained { channel } => (channel, None),
        };
        let Some(name) = self.broker.full_name(id, channel) else {
            return;
        };
        let process_state = Arc::clone(&self.process_state);
        let Some(link) = &process_state.link else {
            return;
        };
        let tag = process_state.interests.tag(&name);
        let is_here = link.attach(tag, &name, position);
        drop(name);
        let Some(client) = self.broker.view(id, now).map(|view| view.peer.ip()) else {
            return;
        };
        let future = Box::pin(async move {
            is_here.await;
            Answer(Content::Here)
        });
        self.ask(id, client, Subject::Channel(awaiting), future);
    }

    /// Waits until what other nodes know of a user is here, or may not be for long.
    pub(super) fn await_user(
        &mut self,
        id: ConnectionId,
        (identity, source): (Identity, TokenSource),
        arrival: UserArrival,
        now: Now,
    ) {
        let Some(client) = self.broker.view(id, now).map(|view| view.peer.ip()) else {
            return;
        };
        let Some(link) = &self.process_state.link else {
            return;
        };
        let may_join = link.arrive(arrival);
        let future = Box::pin(async move { Answer(Content::Admitted(may_join.await)) });
        self.ask(
            id,
            client,
            Subject::User(Box::new(identity), source),
            future,
        );
    }

    /// Carries on with a user of whom it is known what other nodes know.
    fn user_arrived(
        &mut self,
        id: ConnectionId,
        (identity, source): (&Identity, TokenSource),
        may_join: bool,
        now: Now,
    ) {
        let command = match may_join {
            true => Command::TokenVerified {
                verified: Ok(identity),
                source,
                is_awaited: true,
            },
            false => Command::EndSession {
                reason: CloseReason::Quota,
            },
        };
        self.step(id, command, now);
        if source == TokenSource::Handshake {
            self.call_connect(id, now);
        }
    }

    /// Has an asynchronous handler of new sessions answer.
    pub(super) fn ask_about_connect(
        &mut self,
        id: ConnectionId,
        session: AsyncSession,
        answer: BoxFuture<Result<(), HandlerError>>,
    ) {
        self.ask_handler(id, true, session, answer);
    }

    fn ask_handler(
        &mut self,
        id: ConnectionId,
        is_connect: bool,
        session: AsyncSession,
        answer: BoxFuture<Result<(), HandlerError>>,
    ) {
        let client = session.peer().ip();
        let tenant = self.broker.isolated_tenant(id).map(Into::into);
        let subject = Subject::Handler { is_connect, tenant };
        self.ask(id, client, subject, handled(session, answer));
    }

    fn ask(
        &mut self,
        id: ConnectionId,
        client: IpAddr,
        subject: Subject,
        future: BoxFuture<Answer>,
    ) {
        let kind = match subject {
            Subject::Token(..) => QuestionKind::Token,
            Subject::Handler { .. } | Subject::Subscription { .. } => QuestionKind::Handler,
            Subject::Channel(_) | Subject::User(..) => QuestionKind::Node,
        };
        let questions = &mut self.questions;
        questions.count += 1;
        let number = questions.count;
        questions.open.insert((id, number), subject);
        self.hooks.ask(Question {
            shard: self.index,
            key: QuestionKey { id, number },
            kind,
            client: network_of(client),
            future,
        });
    }

    /// The answer to a question, `None` if there is none in time.
    pub fn answer(&mut self, key: QuestionKey, answer: Option<Answer>, now: Now) {
        let QuestionKey { id, number } = key;
        let Some(subject) = self.questions.open.remove(&(id, number)) else {
            return;
        };
        match subject {
            Subject::Token(source, attempt) => {
                let answer = match answer {
                    Some(Answer(Content::Token(answer))) => answer,
                    _ => Err(TokenError::Unanswered),
                };
                self.tell_verified(id, (source, attempt), answer, now);
                if source == TokenSource::Handshake {
                    self.call_connect(id, now);
                }
            }
            Subject::Handler { is_connect, tenant } => {
                let outcome = match answer {
                    Some(Answer(Content::Handler(actions, outcome))) => {
                        self.carry_out(id, actions, tenant, now);
                        outcome
                    }
                    _ => Outcome::Failed,
                };
                self.tell_handled(id, outcome, is_connect, now);
            }
            Subject::Subscription { subscription, user } => {
                let outcome = match answer {
                    Some(Answer(Content::Handler(_, outcome))) => outcome,
                    _ => Outcome::Failed,
                };
                let is_decided = outcome == Outcome::Done;
                self.tell(id, outcome, now);
                if is_decided {
                    self.subscribe_decided(id, *subscription, user.as_deref(), now);
                }
            }
            Subject::User(identity, source) => {
                let is_rejected = matches!(answer, Some(Answer(Content::Admitted(false))));
                self.user_arrived(id, (&identity, source), !is_rejected, now);
            }
            // Whatever the answer: what is published on this node is delivered on it.
            Subject::Channel(awaiting) => self.resume_awaiting(id, awaiting, now),
        }
        self.resume_after_answer(id);
        self.reap_ended(now);
    }

    /// Subscribes a session that may; if it has another user now, it is decided again.
    fn subscribe_decided(
        &mut self,
        id: ConnectionId,
        mut subscription: OwnedSubscription,
        user: Option<&str>,
        now: Now,
    ) {
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        subscription.is_decided = view.identity.map(|identity| &*identity.user) == user;
        drop(view);
        subscription.with(|subscription| {
            self.step(id, Command::Subscribe(subscription), now);
        });
    }

    fn resume_awaiting(&mut self, id: ConnectionId, awaiting: Awaiting, now: Now) {
        match awaiting {
            Awaiting::Subscription(mut subscription) => {
                subscription.is_awaited = true;
                subscription.with(|subscription| {
                    self.step(id, Command::Subscribe(subscription), now);
                });
            }
            Awaiting::History {
                channel,
                after,
                limit,
            } => {
                let request = HistoryRequest {
                    channel: &channel,
                    after,
                    limit,
                    is_awaited: true,
                };
                self.step(id, Command::GetHistory(request), now);
            }
            Awaiting::Presence {
                channel,
                after,
                limit,
            } => {
                let request = PresenceRequest {
                    channel: &channel,
                    after: after.as_deref(),
                    limit,
                    is_awaited: true,
                };
                self.step(id, Command::GetPresence(request), now);
            }
            Awaiting::Retained { channel } => {
                let command = Command::GetRetained {
                    is_awaited: true,
                    channel: &channel,
                };
                self.step(id, command, now);
            }
        }
    }

    fn resume_after_answer(&mut self, id: ConnectionId) {
        if self.questions.has(id) {
            return;
        }
        let connection = self.connections.slab.get_mut(id);
        if let Some(input) = connection.and_then(|connection| connection.input.as_mut())
            && input.waits_for == WaitsFor::Answer
        {
            input.waits_for = WaitsFor::Turn;
            self.connections.input_queue.push(id, WaitsFor::Turn);
        }
    }

    pub(super) fn tell_handled(
        &mut self,
        id: ConnectionId,
        outcome: Outcome,
        is_connect: bool,
        now: Now,
    ) {
        let reason = match outcome {
            Outcome::Done => None,
            // It may come in when it tries again.
            Outcome::Failed => Some(CloseReason::AuthUnanswered),
            Outcome::Denied(_) | Outcome::Panicked => Some(CloseReason::Unauthorized),
        };
        self.tell(id, outcome, now);
        if let Some(reason) = reason.filter(|_| is_connect) {
            self.end_session(id, reason, now);
        }
    }
}

/// The answer of a handler, which may panic.
fn handled(
    session: AsyncSession,
    answer: BoxFuture<Result<(), HandlerError>>,
) -> BoxFuture<Answer> {
    Box::pin(async move {
        let outcome = match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(HandlerError::Denied(denied))) => Outcome::Denied(denied.to_string()),
            Ok(Err(HandlerError::Failed)) => Outcome::Failed,
            Err(_) => Outcome::Panicked,
        };
        Answer(Content::Handler(session.take_actions(), outcome))
    })
}
