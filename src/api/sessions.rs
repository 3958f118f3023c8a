//! Sessions of all shards, for the HTTP API and the embedding program.

use super::info::ConnectionInfo;
use super::shards::{Shards, WhileStalled};
use crate::base::{ConnectionId, Now};
use crate::broker::{Broker, SessionId, SessionSearch};
use crate::dialect::monitoring;
use crate::shard::Shard;
use serde::Serialize;
use utoipa::ToSchema;

/// Sessions that were searched for.
///
/// ```no_run
/// # let server = fanwire::Server::builder().dev().start()?;
/// let page = fanwire::block_on(server.connections(&fanwire::SessionSearch::default(), None, 100));
/// page.connections.iter().for_each(|info| println!("{}", info.id));
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Connections)]
#[non_exhaustive]
pub struct ConnectionPage {
    /// In the order of their shards and places there.
    pub connections: Vec<ConnectionInfo>,
    /// What to send as `after` for the next page; absent if this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// False while a shard is stalled: then its sessions may be missing.
    pub is_complete: bool,
}

/// Why nothing was done with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    /// There is none with this id, or it is another tenant's.
    Unknown,
    /// Its shard is stalled.
    Stalled,
}

impl Shards {
    /// Calls `call` for a session on its shard. The session is named by its id or its connection id of
    /// the monitoring dialect; with a tenant, it is one of this tenant.
    pub(super) async fn on_session<T: Send + 'static>(
        &self,
        id: &str,
        tenant: Option<&str>,
        stalled: WhileStalled,
        call: impl FnOnce(&mut Shard, ConnectionId, Now) -> T + Send + 'static,
    ) -> Result<T, Unreached> {
        let id = match id.parse() {
            Ok(id) => id,
            Err(()) => {
                let id = id.to_owned();
                let find =
                    move |shard: &mut Shard, now: Now| by_connection_id(shard.broker(), &id, now);
                let (found, is_complete) = self.call_all(stalled, find).await;
                let found = found.into_iter().flatten().next();
                found.ok_or(match is_complete {
                    true => Unreached::Unknown,
                    false => Unreached::Stalled,
                })?
            }
        };
        let SessionId {
            node,
            shard,
            connection,
        } = id;
        if node != self.node() || shard >= self.count() {
            return Err(Unreached::Unknown);
        }
        let tenant = tenant.map(str::to_owned);
        let result = self.call(shard, stalled, move |shard, now| {
            let view = shard.broker().view(connection, now)?;
            let is_its = tenant.is_none_or(|tenant| view.tenant == Some(&*tenant));
            is_its.then(|| call(shard, connection, now))
        });
        let result = result.await.ok_or(Unreached::Stalled)?;
        result.ok_or(Unreached::Unknown)
    }

    /// The same for the embedding program, which waits for shards that are stalled; `None` if there is
    /// no such session.
    pub async fn with_session<T: Send + 'static>(
        &self,
        id: &str,
        tenant: Option<&str>,
        call: impl FnOnce(&mut Shard, ConnectionId, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let result = self.on_session(id, tenant, WhileStalled::Wait, call);
        result.await.ok()
    }

    /// At most `limit` sessions that match, after one with this id.
    pub async fn page(
        &self,
        stalled: WhileStalled,
        search: &SessionSearch,
        after: Option<SessionId>,
        limit: usize,
    ) -> ConnectionPage {
        let mut page = ConnectionPage {
            connections: Vec::new(),
            next: None,
            is_complete: true,
        };
        let mut from = after.map_or(0, |after| after.connection.slot() + 1);
        for shard in after.map_or(0, |after| after.shard)..self.count() {
            loop {
                let search = search.clone();
                let left = limit - page.connections.len();
                let found = move |shard: &mut Shard, now: Now| {
                    let broker = shard.broker();
                    let found = broker.search(&search, from, left);
                    let infos = found.items.iter().filter_map(|id| info(broker, *id, now));
                    (infos.collect::<Vec<_>>(), found.next)
                };
                let Some((infos, next)) = self.call(shard, stalled, found).await else {
                    page.is_complete = false;
                    break;
                };
                page.connections.extend(infos);
                if page.connections.len() >= limit {
                    page.next = page.connections.last().map(|last| last.id.clone());
                    return page;
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
            from = 0;
        }
        page
    }
}

/// The session with this connection id of the monitoring dialect.
fn by_connection_id(broker: &Broker, wanted: &str, now: Now) -> Option<SessionId> {
    let mut sessions = broker.sessions();
    let connection = sessions.find(|connection| {
        let view = broker.view(*connection, now);
        view.is_some_and(|view| monitoring::connection_id(&view) == wanted)
    })?;
    Some(broker.session_id(connection))
}

/// Information about a session.
#[must_use]
pub fn info(broker: &Broker, id: ConnectionId, now: Now) -> Option<ConnectionInfo> {
    let rate = broker.rate_limit_status(id, now)?;
    Some(ConnectionInfo::new(&broker.view(id, now)?, rate))
}
