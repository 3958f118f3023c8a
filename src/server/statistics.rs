//! Statistics and health, for the embedding program.

use super::handle::{Server, assert_not_shard};
use crate::api::{Stats, TenantStats, WhileStalled};
use crate::base::channel_names::name_for_clients;
use crate::base::{DialectId, Now, ShardCounters};
use crate::broker::RateUse;
use crate::dialect::monitoring;
use crate::shard::Shard;
use std::collections::HashSet;

impl Server {
    /// Statistics of the whole server.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// # use fanwire::block_on;
    /// println!("{} sessions", block_on(server.stats()).active_connections);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub async fn stats(&self) -> Stats {
        assert_not_shard();
        let names = |shard: &mut Shard, _| {
            let names = shard.broker().channel_names("").map(str::to_owned);
            names.collect::<Vec<_>>()
        };
        let shards = &self.running.context().shards;
        let (names, _) = shards.call_all(WhileStalled::Wait, names).await;
        let names: HashSet<_> = names.into_iter().flatten().collect();
        let properties = names
            .iter()
            .filter(|name| monitoring::property_of(name_for_clients(name)).is_some());
        let context = self.running.context();
        let counters = &context.counters;
        let sum = |pick: fn(&ShardCounters) -> u64| counters.iter().map(|shard| pick(shard)).sum();
        Stats {
            running: context.is_serving(),
            active_connections: context.process_state.sessions_total(),
            authenticated_connections: sum(|shard| shard.authenticated_sessions.value()),
            total_connections: context.process_state.sessions_opened(),
            total_subscriptions: sum(|shard| shard.subscriptions.value()),
            unique_channels: names.len() as u64,
            unique_properties: properties.count() as u64,
            messages_received: sum(|shard| shard.messages_received.value()),
            messages_sent: sum(|shard| shard.deliveries.value()),
        }
    }

    /// Counts of one tenant's sessions, in all dialects.
    ///
    /// # Panics
    /// In a handler that runs on a shard.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let stats = fanwire::block_on(server.tenant_stats("acme"));
    /// println!("{} sessions of acme", stats.active_connections);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub async fn tenant_stats(&self, tenant: &str) -> TenantStats {
        assert_not_shard();
        let tenant = tenant.to_owned();
        let count = move |shard: &mut Shard, now: Now| {
            let mut stats = TenantStats::default();
            let mut names = HashSet::new();
            for view in shard.broker().sessions_of(&tenant, now) {
                stats.active_connections += 1;
                stats.authenticated_connections += u64::from(view.identity.is_some());
                stats.total_subscriptions += view.channels.len() as u64;
                names.extend(view.channels.into_iter().map(str::to_owned));
            }
            (stats, names)
        };
        let shards = &self.running.context().shards;
        let (answers, _) = shards.call_all(WhileStalled::Wait, count).await;
        let mut total = TenantStats::default();
        let mut all_names = HashSet::new();
        for (stats, names) in answers {
            total.active_connections += stats.active_connections;
            total.authenticated_connections += stats.authenticated_connections;
            total.total_subscriptions += stats.total_subscriptions;
            all_names.extend(names);
        }
        total.unique_channels = all_names.len() as u64;
        total
    }

    /// Sessions of one dialect.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let count = server.session_count(fanwire::DialectId::Gateway);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn session_count(&self, dialect: DialectId) -> u64 {
        self.running.context().process_state.sessions(dialect)
    }

    /// All metrics in the Prometheus text format.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// println!("{}", server.prometheus_metrics());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn prometheus_metrics(&self) -> String {
        let text = self.running.context().metrics.text();
        text.unwrap_or_default()
    }

    /// The health of the server and its components, as in the answer to `GET /health`.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// assert_eq!(server.health()["status"], "healthy");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn health(&self) -> serde_json::Value {
        self.running.context().health()
    }

    /// What a user has used of its rate limit, in all its sessions of a dialect; `None` where users
    /// have no limit. Where tenants are isolated, users of the same name in two tenants are two.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let rate = server.user_rate_limit_status(fanwire::DialectId::Gateway, None, "ann");
    /// assert!(rate.is_none(), "there is no rate limit in development mode");
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn user_rate_limit_status(
        &self,
        dialect: DialectId,
        tenant: Option<&str>,
        user: &str,
    ) -> Option<RateUse> {
        let policy = &self.settings.dialects[dialect.index()];
        let limit = policy.rate_limit_of_user();
        let tenant = tenant.filter(|_| policy.tenant_isolation);
        let now = self.running.context().clock.now();
        let quotas = self.running.quotas();
        let used = quotas.used_by_user(dialect, (tenant, user), limit, now);
        RateUse::of(used, limit)
    }
}
