//! Calls the handlers of the embedding program, and carries out their actions.

use super::Shard;
use super::async_session::AsyncSession;
use super::effects::publish;
use super::hooks::Outcome;
use super::session::{Message, Session, SessionAction};
use crate::base::counters::{CloseReason, MessageError};
use crate::base::{ConnectionId, Now};
use crate::broker::{Command, Event, Publication, Rejection};

impl Shard {
    /// Calls the middleware for a message; false when it rejected the message.
    pub(super) fn passes_middleware(
        &mut self,
        id: ConnectionId,
        message: Message<'_>,
        now: Now,
    ) -> bool {
        let Some(view) = self.broker.view(id, now) else {
            return false;
        };
        let outcome = self.hooks.check(&Session::new(&view), message);
        drop(view);
        let passes = outcome == Outcome::Done;
        self.tell(id, outcome, now);
        passes
    }

    /// Whether there is a handler for messages of this type, and the session may call it.
    pub(super) fn check_handler(&self, id: ConnectionId, kind: &str) -> Result<(), Rejection> {
        let before_authentication = self.hooks.handler(kind).ok_or(Rejection::UnknownType)?;
        if before_authentication || self.broker.auth_satisfied(id) {
            Ok(())
        } else {
            Err(Rejection::AuthenticationRequired)
        }
    }

    /// Calls the handler of a message whose type the dialect does not have.
    pub(super) fn call_handler(&mut self, id: ConnectionId, message: Message<'_>, now: Now) {
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        if self.hooks.is_async(message.kind) {
            let session = AsyncSession::new(&view);
            let future = self.hooks.message_async(session.clone(), message);
            drop(view);
            if let Some(future) = future {
                self.ask_about_message(id, session, future);
            }
            return;
        }
        let mut session = Session::new(&view);
        let outcome = self.hooks.message(&mut session, message);
        let actions = session.into_actions();
        drop(view);
        self.carry_out_now(id, actions, now);
        self.tell(id, outcome, now);
    }

    /// Calls the handler for new sessions, unless others have yet to say whose its token is.
    pub(super) fn call_connect(&mut self, id: ConnectionId, now: Now) {
        if self.questions.has(id) {
            return;
        }
        if self.hooks.has_connect() && self.connections.is_open(id) {
            self.call_connect_on_shard(id, now);
        }
        if !self.hooks.has_connect_async() || !self.connections.is_open(id) {
            return;
        }
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        let session = AsyncSession::new(&view);
        let future = self.hooks.connect_async(&session);
        drop(view);
        if let Some(future) = future {
            self.ask_about_connect(id, session, future);
        }
    }

    fn call_connect_on_shard(&mut self, id: ConnectionId, now: Now) {
        let Some(view) = self.broker.view(id, now) else {
            return;
        };
        let mut session = Session::new(&view);
        let outcome = self.hooks.connect(&mut session);
        let actions = session.into_actions();
        drop(view);
        self.carry_out_now(id, actions, now);
        self.tell_handled(id, outcome, true, now);
    }

    /// Calls the handler for ended sessions.
    pub(super) fn call_disconnect(&mut self, id: ConnectionId, now: Now) {
        if self.hooks.has_disconnect()
            && let Some(view) = self.broker.view(id, now)
        {
            let outcome = self.hooks.disconnect(&Session::new(&view));
            drop(view);
            if outcome == Outcome::Panicked {
                self.count_handler_error();
            }
        }
    }

    pub(super) fn tell(&mut self, id: ConnectionId, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Done => {}
            Outcome::Denied(reason) => {
                self.count_handler_error();
                let event = Event::Denied { reason: &reason };
                self.connections.reply(id, &event, now);
            }
            Outcome::Panicked | Outcome::Failed => {
                let rejection = Rejection::HandlerFailed;
                self.step(id, Command::Malformed(rejection), now);
            }
        }
    }

    fn count_handler_error(&self) {
        let errors = &self.connections.counters.message_errors;
        errors.of(MessageError::Handler).add(1);
    }

    /// Carries out what a handler requests that was called just now. Most request nothing.
    pub(super) fn carry_out_now(
        &mut self,
        id: ConnectionId,
        actions: Vec<SessionAction>,
        now: Now,
    ) {
        if !actions.is_empty() {
            let tenant = self.broker.isolated_tenant(id).map(Into::into);
            self.carry_out(id, actions, tenant, now);
        }
    }

    /// Carries out what a handler requests. `tenant` is that of the session when the handler was called,
    /// if tenants are isolated: the session may have ended since.
    pub(super) fn carry_out(
        &mut self,
        id: ConnectionId,
        actions: Vec<SessionAction>,
        mut tenant: Option<Box<str>>,
        now: Now,
    ) {
        for action in actions {
            match action {
                SessionAction::Send(kind, data) => self.send_message(id, &kind, &data, now),
                SessionAction::SendFrame(frame) => self.send_frame(id, &frame, now),
                SessionAction::Publish {
                    channel,
                    kind,
                    data,
                } => {
                    let publication = Publication::new(&channel, &kind, &data);
                    let publication = publication.in_scope(tenant.as_deref().into());
                    if publication.is_valid() {
                        self.connections.counters.publications.add(1);
                        let (connections, writer) = (&mut self.connections, &mut self.writer);
                        publish(connections, writer, id, &publication, now);
                    } else {
                        self.count_handler_error();
                    }
                }
                SessionAction::Subscribe(channel) => {
                    let channel = &channel;
                    self.step(id, Command::SubscribeServerSide { channel }, now);
                }
                SessionAction::Unsubscribe(channel) => {
                    let channel = &channel;
                    self.step(id, Command::UnsubscribeServerSide { channel }, now);
                }
                SessionAction::Identify(identity) => {
                    self.step(id, Command::Identify(&identity), now);
                    if self.connections.is_open(id) {
                        tenant = self.broker.isolated_tenant(id).map(Into::into);
                    }
                }
                SessionAction::Close => {
                    self.disconnect(id, now);
                }
                SessionAction::CloseWith(code, reason) => {
                    self.connections.close_with(id, code, &reason, now);
                }
            }
        }
    }

    /// Sends a message to one session, in its dialect. `data` is JSON.
    pub fn send_message(&mut self, id: ConnectionId, kind: &str, data: &str, now: Now) {
        let event = Event::Message { kind, data, now };
        self.connections.reply(id, &event, now);
    }

    /// Carries out a command of the server for a session; false when there is none with this id.
    pub fn command(&mut self, id: ConnectionId, command: Command<'_>, now: Now) -> bool {
        let is_there = self.connections.is_open(id);
        self.step(id, command, now);
        self.reap_ended(now);
        is_there
    }

    /// Closes a session on behalf of the embedding program or an operator; false when there is none
    /// with this id.
    pub fn disconnect(&mut self, id: ConnectionId, now: Now) -> bool {
        let is_there = self.connections.is_open(id);
        self.end_session(id, CloseReason::Operator, now);
        is_there
    }

    pub(super) fn end_session(&mut self, id: ConnectionId, reason: CloseReason, now: Now) {
        self.step(id, Command::EndSession { reason }, now);
    }
}
