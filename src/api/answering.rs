//! What this node answers to a question of its own or of another node.

use super::context::ApiContext;
use super::question::{Count, NodeQuestion, SessionAction, SessionAnswer};
use super::sessions::{ConnectionPage, Unreached, info};
use super::shards::{Shards, WhileStalled};
use crate::base::counters::CloseReason;
use crate::base::limits::{API_PAGE_MAX, NODE_ANSWER_PAGE_BYTES};
use crate::base::{ConnectionId, Now};
use crate::broker::{Command, SessionId, SessionSearch};
use crate::shard::Shard;
use crate::ws::{Opcode, frame};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

impl ApiContext {
    /// The answer to a question of another node, which is empty if there is nothing to say; `None` if the
    /// question cannot be read.
    pub async fn answer(&self, text: &[u8]) -> Option<Vec<u8>> {
        let skip = WhileStalled::Skip;
        let shards = &self.shards;
        match serde_json::from_slice(text).ok()? {
            NodeQuestion::Connections {
                search,
                after,
                limit,
            } => {
                let after = match after {
                    Some(after) => Some(after.parse::<SessionId>().ok()?),
                    None => None,
                };
                let limit = limit.clamp(1, API_PAGE_MAX);
                let page = shards.page(skip, &search.read()?, after, limit).await;
                write(&cut(page))
            }
            NodeQuestion::Session { id, tenant, action } => {
                let answer = shards.act(&id, tenant.as_deref(), skip, action).await;
                match answer {
                    Ok(answer) => write(&answer),
                    Err(Unreached::Stalled) => write(&SessionAnswer::Stalled),
                    Err(Unreached::Unknown | Unreached::Unanswered) => Some(Vec::new()),
                }
            }
            NodeQuestion::DisconnectUser { user, tenant } => {
                write(&shards.disconnect_user(user, tenant).await)
            }
            NodeQuestion::Channels { search, limit } => {
                let limit = limit.clamp(1, API_PAGE_MAX);
                write(&shards.channel_page(skip, &search, limit).await)
            }
            NodeQuestion::Subscribers { channel } => write(&shards.subscribers(&channel).await),
            NodeQuestion::DeleteUserHistory { user, tenant } => {
                self.delete_user_history(tenant.as_deref(), &user);
                Some(Vec::new())
            }
            NodeQuestion::Delivered => Some(Vec::new()),
        }
    }
}

fn write(answer: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(answer).ok()
}

/// As much of a page as an answer has room for.
fn cut(mut page: ConnectionPage) -> ConnectionPage {
    let mut bytes = 0;
    let infos = page.connections.iter();
    let fits = infos.take_while(|info| {
        let has_room = bytes < NODE_ANSWER_PAGE_BYTES;
        bytes += serde_json::to_vec(info).map_or(0, |text| text.len());
        has_room
    });
    let count = fits.count();
    if count < page.connections.len() {
        page.connections.truncate(count);
        page.next = page.connections.last().map(|last| last.id.clone());
    }
    page
}

impl Shards {
    /// Does something with a session of this node, of a tenant if that is named.
    pub(super) async fn act(
        &self,
        id: &str,
        tenant: Option<&str>,
        stalled: WhileStalled,
        action: SessionAction,
    ) -> Result<SessionAnswer, Unreached> {
        let call = move |shard: &mut Shard, id, now| act(shard, id, now, &action);
        let answer = self.on_session(id, tenant, stalled, call).await?;
        answer.ok_or(Unreached::Unknown)
    }

    /// Closes all sessions of a user on this node.
    pub(super) async fn disconnect_user(&self, user: String, tenant: Option<String>) -> Count {
        let search = SessionSearch {
            user: Some(user),
            tenant,
            ..SessionSearch::default()
        };
        let close = move |shard: &mut Shard, now: Now| {
            let found = shard.broker().search(&search, 0, usize::MAX).items;
            for id in &found {
                let reason = CloseReason::Operator;
                shard.command(*id, Command::EndSession { reason }, now);
            }
            found.len()
        };
        let (counts, is_complete) = self.call_all(WhileStalled::Skip, close).await;
        Count {
            count: counts.iter().sum(),
            is_complete,
        }
    }

    /// How many subscribers a channel has on this node.
    pub(super) async fn subscribers(&self, full_name: &str) -> Count {
        let full_name = full_name.to_owned();
        let count = move |shard: &mut Shard, _| shard.broker().subscriber_count(&full_name);
        let (counts, is_complete) = self.call_all(WhileStalled::Skip, count).await;
        Count {
            count: counts.iter().sum(),
            is_complete,
        }
    }
}

/// Does something with a session; `None` if it has ended.
fn act(
    shard: &mut Shard,
    id: ConnectionId,
    now: Now,
    action: &SessionAction,
) -> Option<SessionAnswer> {
    let is_done = match action {
        SessionAction::Show => {
            let info = info(shard.broker(), id, now)?;
            return Some(SessionAnswer::Info(Box::new(info)));
        }
        SessionAction::ShowRates => {
            let rates = shard.broker().rate_limit_status(id, now)?;
            return Some(SessionAnswer::Rates(rates));
        }
        SessionAction::Disconnect => shard.disconnect(id, now),
        SessionAction::Identify(identity) => {
            identity.is_valid() && shard.command(id, Command::Identify(identity), now)
        }
        SessionAction::Send { kind, data } => {
            shard.send_message(id, kind, data, now);
            true
        }
        SessionAction::SendRaw { base64, is_binary } => {
            let opcode = match is_binary {
                true => Opcode::Binary,
                false => Opcode::Text,
            };
            let bytes = STANDARD.decode(base64).ok()?;
            shard.send_frame(id, &frame::message(opcode, &bytes), now);
            true
        }
        SessionAction::Subscribe {
            channel,
            is_of_tenant,
        } => {
            // Elsewhere the channel would be one that all tenants share.
            if *is_of_tenant && shard.broker().isolated_tenant(id).is_none() {
                return Some(SessionAnswer::NotIsolated);
            }
            shard.command(id, Command::SubscribeServerSide { channel }, now)
        }
        SessionAction::Unsubscribe { channel } => {
            shard.command(id, Command::UnsubscribeServerSide { channel }, now)
        }
    };
    is_done.then_some(SessionAnswer::Done)
}
