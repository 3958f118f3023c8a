//! Sessions of all shards, for the HTTP API and the embedding program.

use super::info::ConnectionInfo;
use super::shards::{Shards, WhileStalled};
use crate::base::{ConnectionId, Now};
use crate::broker::{Broker, SessionId, SessionSearch};
use crate::dialect::monitoring;
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Sessions that were searched for.
///
/// ```no_run
/// # let server = fanwire::Server::builder().dev().start()?;
/// let page = fanwire::block_on(server.connections(&fanwire::SessionSearch::default(), None, 100));
/// page.connections.iter().for_each(|info| println!("{}", info.id));
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Connections)]
#[non_exhaustive]
pub struct ConnectionPage {
    /// In the order of their nodes, shards and places there.
    pub connections: Vec<ConnectionInfo>,
    /// What to send as `after` for the next page; absent if this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// False while a shard is stalled or a node does not answer: then its sessions may be missing.
    pub is_complete: bool,
}

/// Why nothing was done with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// There is none with this id, or it is another tenant's.
    Unknown,
    /// Its shard is stalled.
    Stalled,
    /// It is not on the nodes that have answered, and not all have.
    Unanswered,
}

impl ConnectionPage {
    /// The page of all nodes, of those of each.
    pub(super) fn merge(pages: Vec<Self>, limit: usize, is_complete: bool) -> Self {
        let is_complete = is_complete && pages.iter().all(|page| page.is_complete);
        let is_there = |page: &Self| !page.connections.is_empty();
        let mut pages: Vec<_> = pages.into_iter().filter(is_there).collect();
        pages.sort_by_key(|page| page.connections[0].id.parse::<SessionId>().ok());
        let mut connections = Vec::new();
        let mut has_more = false;
        for mut page in pages {
            // What follows a page that is not whole comes later.
            if has_more || connections.len() == limit {
                has_more = true;
                break;
            }
            has_more = page.next.is_some() || connections.len() + page.connections.len() > limit;
            page.connections.truncate(limit - connections.len());
            connections.append(&mut page.connections);
        }
        let last = connections
            .last()
            .map(|last: &ConnectionInfo| last.id.clone());
        Self {
            connections,
            next: last.filter(|_| has_more),
            is_complete,
        }
    }
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

    /// At most `limit` sessions of this node that match, after one with this id.
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
        let after = match after {
            Some(after) if after.node > self.node() => return page,
            after => after.filter(|after| after.node == self.node()),
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
pub(super) fn info(broker: &Broker, id: ConnectionId, now: Now) -> Option<ConnectionInfo> {
    let rate = broker.rate_limit_status(id, now)?;
    Some(ConnectionInfo::new(&broker.view(id, now)?, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str) -> ConnectionInfo {
        let info = serde_json::json!({
            "id": id, "connection_id": "", "dialect": "gateway", "address": "", "user_id": null,
            "tenant_id": null, "roles": [], "channels": [], "connected_at": 0.0, "uptime": 0.0,
            "rate_used": 0, "rate_max": null,
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn pages_of_nodes_follow_each_other_and_the_cursor_stands_at_the_last_session() {
        let page = |node: u32, count: u32, is_whole: bool| {
            let id = |slot| format!("{node:08x}0000000000{slot:06x}");
            let connections: Vec<_> = (0..count).map(|slot| info(&id(slot))).collect();
            let next = connections.last().map(|last| last.id.clone());
            ConnectionPage {
                connections,
                next: next.filter(|_| !is_whole),
                is_complete: true,
            }
        };
        let check = |pages: &[ConnectionPage], limit, expected: &[&str], has_more: bool| {
            let merged = ConnectionPage::merge(pages.to_vec(), limit, true);
            let short = |id: &String| format!("{}.{}", &id[7..8], &id[23..]);
            let ids = merged.connections.iter().map(|info| short(&info.id));
            assert_eq!(ids.collect::<Vec<_>>(), expected);
            let last = expected.last().map(|last| (*last).to_owned());
            assert_eq!(merged.next.as_ref().map(short), last.filter(|_| has_more));
        };
        let (one, two, none) = (page(1, 2, true), page(2, 2, true), page(3, 0, true));
        let all = [two.clone(), none, one.clone()];
        check(&all, 9, &["1.0", "1.1", "2.0", "2.1"], false);
        check(&all, 4, &["1.0", "1.1", "2.0", "2.1"], false);
        check(&all, 3, &["1.0", "1.1", "2.0"], true);
        // Full, and nobody knows what follows.
        check(&all, 2, &["1.0", "1.1"], true);
        let part = page(1, 2, false);
        check(&[two, part], 9, &["1.0", "1.1"], true);
        check(&[], 9, &[], false);
        let stalled = ConnectionPage {
            is_complete: false,
            ..one
        };
        assert!(!ConnectionPage::merge(vec![stalled], 9, true).is_complete);
    }
}
