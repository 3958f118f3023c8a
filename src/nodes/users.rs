//! What nodes share of users: how many sessions they have, where they stopped, and what they want to be
//! subscribed to again.
//!
//! ```text
//!   user arrives ─▶ script in Redis: counts the session, returns what is known ─▶ tables of this node
//!   user changes ─▶ table of this node, and hash of the user in Redis
//! ```
//!
//! Redis has a hash of each user, whose fields begin with a letter:
//!
//! | field | value |
//! | --- | --- |
//! | `n` + node | how many sessions the user has there |
//! | `p` + channel | the offset up to which everything was sent, and until when that is of use, milliseconds since 1970 |
//! | `l` + node + ` ` + channel | a session there is subscribed |
//! | `s` + channel | a persistent subscription, with the time since when it is wanted |

use super::connection::{Connection, Failure, failure, takes_nothing};
use super::live_users::LiveUsers;
use super::presence::read_nodes;
use super::reservations::Reservations;
use super::run::{Event, Runner};
use super::told_presence::{node_name, node_number};
use crate::base::limits::{
    NODE_ADMISSION_MS, NODE_COUNT_TTL_MS, NODE_LOOKS_MAX, NODE_RECOUNT_MS, NODE_REFUSED_MS,
    NODE_SECOND_LOOK_MS, NODE_USERS_AT_ONCE,
};
use crate::base::{
    CountedOwner, NodeUser, Now, ProcessState, UserArrival, UserChange, WaitingUser,
};
use crate::broker::quota_user;
use redis::{Cmd, RedisError, Value};
use std::collections::{HashMap, HashSet};

const COUNT_FIELD: char = 'n';
const POSITION_FIELD: char = 'p';
const LIVE_FIELD: char = 'l';
const SUBSCRIPTION_FIELD: char = 's';

/// What is on its way about users.
#[derive(Default)]
pub(super) struct UserSharing {
    is_busy: bool,
    /// Changes that are on their way.
    in_flight: Vec<(NodeUser, UserChange)>,
    /// Whose sessions are to be counted again at a time, monotonic milliseconds.
    recounts: Vec<(u64, CountedOwner)>,
    /// Whose counts are on their way.
    in_flight_counts: HashSet<CountedOwner>,
    /// Those of whose sessions Redis has a count.
    counted: HashSet<CountedOwner>,
    /// Sessions that are counted there before they begin.
    reservations: Reservations,
    /// Who is asked about again at a time.
    second_looks: Vec<(u64, WaitingUser)>,
    /// Who is subscribed here, as Redis is told.
    live: LiveUsers,
    /// Whether the node had its lease when it was last looked.
    had_lease: bool,
    /// Redis stores nothing: until when nothing is sent, monotonic milliseconds.
    refused_until_ms: u64,
}

/// The other nodes as an arriving user finds them.
#[derive(Debug, Default)]
pub(super) struct NodesThere {
    /// This node.
    own: u64,
    /// Those with a lease.
    with_lease: Vec<u64>,
    /// Those of them that are not connected to Redis: they are dead, or cut off.
    silent: Vec<u64>,
}

impl NodesThere {
    /// Whether another node is there to deliver.
    fn has_other(&self, node: u64) -> bool {
        node != self.own && self.with_lease.contains(&node) && !self.silent.contains(&node)
    }

    /// Whether what Redis knows of a node may still hold.
    fn may_hold(&self, node: u64) -> bool {
        node == self.own || self.with_lease.contains(&node)
    }
}

/// One change of a hash in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HashChange {
    Set(String, String),
    /// Only if there is no such field.
    SetNew(String, String),
    /// The same; if there is one, it is kept until this time, milliseconds since 1970.
    Keep(String, u64, u64),
    /// Only if there are no fields at all.
    Revive(String, String),
    /// A position, unless a session of another node is subscribed to its channel.
    RemovePosition(String),
    Remove(String),
    /// All fields that begin so.
    RemoveAll(char),
}

/// The answer about a user who has arrived: whether the tenant and the user may have the session, and what is
/// known.
pub(super) type Arrivals = Vec<(WaitingUser, Result<Option<KnownUser>, RedisError>)>;

/// What Redis knows of a user: its fields.
pub(super) type KnownUser = HashMap<String, String>;

impl UserSharing {
    /// The connection is lost; what was on its way is to be sent again.
    pub(super) fn lost(&mut self) -> Vec<(NodeUser, UserChange)> {
        self.is_busy = false;
        // Those whose answers are lost are not known any more; the counts are set right soon.
        self.reservations = Reservations::default();
        // Nobody knows what Redis has now.
        let owners = self.counted.drain().chain(self.in_flight_counts.drain());
        self.recounts.extend(owners.map(|owner| (0, owner)));
        std::mem::take(&mut self.in_flight)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The session of someone who has arrived begins, or does not.
    fn end_reservations(&mut self, waiting: &WaitingUser, may_begin: bool, now_ms: u64) {
        for owner in counted_owners(&waiting.arrival).filter(|_| waiting.is_counted) {
            match may_begin {
                true => self.reservations.end_soon(owner, now_ms),
                false => {
                    self.reservations.end(&owner);
                    self.recounts.push((now_ms, owner));
                }
            }
        }
    }
}

impl Runner {
    /// Sends what has changed of users, and then asks about those who have arrived: who comes back at once
    /// finds the changes.
    pub(super) fn serve_users(&mut self, now_ms: u64) {
        if self.users.is_busy {
            return;
        }
        let counted_twice = self.users.reservations.end_due(now_ms);
        let counted_twice = counted_twice.into_iter().map(|owner| (now_ms, owner));
        self.users.recounts.extend(counted_twice);
        let has_lease = self.sharing.is_settled();
        if has_lease && !std::mem::replace(&mut self.users.had_lease, has_lease) {
            // Others have taken this node for dead, or Redis has lost what it knew.
            self.users.live.tell_again();
            let counted = self.users.counted.iter().cloned();
            self.users.recounts.extend(counted.map(|owner| (0, owner)));
        }
        self.users.had_lease = has_lease;
        let mut waiting = self.engine.link().take_waiting_users(NODE_USERS_AT_ONCE);
        let second_looks = &mut self.users.second_looks;
        let due = second_looks.extract_if(.., |(due_ms, _)| now_ms >= *due_ms);
        waiting.extend(due.map(|(_, waiting)| waiting));
        let Some(mut connection) = self.connection() else {
            // Who waits is told by its end that nothing is known.
            waiting.extend(self.users.second_looks.drain(..).map(|(_, it)| it));
            for waiting in &waiting {
                self.users.end_reservations(waiting, true, now_ms);
            }
            return drop(waiting);
        };
        let changes = self.change_commands(&connection, now_ms);
        if changes.is_empty() && waiting.is_empty() {
            return;
        }
        for WaitingUser { arrival, .. } in &waiting {
            let counted = counted_owners(arrival).map(|owner| (now_ms + NODE_RECOUNT_MS, owner));
            self.users.recounts.extend(counted);
        }
        self.users.is_busy = true;
        let node = self.engine.link().node();
        let mut commands = changes;
        if !waiting.is_empty() {
            // A node that has just come counts too.
            commands.push(self.renew_lease_command(&connection));
        }
        self.spawn(async move {
            let mut changed = connection.run(commands).await;
            let has_failed = changed.iter().any(|result| match result {
                Err(error) => failure(error) != Failure::Rejected,
                Ok(_) => false,
            });
            let mut nodes = NodesThere {
                own: node,
                ..NodesThere::default()
            };
            if waiting.is_empty() || has_failed {
                return Event::UsersServed(changed, nodes, Vec::new());
            }
            match changed.pop().map(|answer| answer.map(read_nodes)) {
                Some(Ok(Some(with_lease))) => nodes.with_lease = with_lease,
                Some(Err(error)) => changed.push(Err(error)),
                _ => {}
            }
            let questions = arrival_commands(&connection, node, &nodes.with_lease, &waiting);
            let answers = connection.run(questions).await;
            let arrived = read_answers(waiting, answers);
            nodes.silent = silent_nodes(&mut connection, &nodes, &arrived).await;
            Event::UsersServed(changed, nodes, arrived)
        });
    }

    /// The commands that tell what has changed.
    fn change_commands(&mut self, connection: &Connection, now_ms: u64) -> Vec<Cmd> {
        if now_ms < self.users.refused_until_ms {
            return Vec::new();
        }
        let link = self.engine.link();
        let mut changes = link.take_user_changes(NODE_USERS_AT_ONCE);
        for (user, change) in &changes {
            self.users.live.note(user, change);
        }
        let again = self.users.live.take_untold(NODE_USERS_AT_ONCE);
        for (user, _) in &again {
            link.begin_user_change(user);
        }
        changes.extend(again);
        let mut owners = link.take_counts();
        let recounts = &mut self.users.recounts;
        let due = recounts.extract_if(.., |(due_ms, _)| now_ms >= *due_ms);
        owners.extend(due.map(|(_, owner)| owner));
        let node = self.engine.link().node();
        let unix_ms = self.clock.now().unix_ms;
        // One command for all of an owner, as in a cluster two may overtake each other.
        let mut by_owner: Vec<(CountedOwner, u64, Vec<HashChange>)> = Vec::new();
        let mut known = HashMap::new();
        let mut note = |owner: CountedOwner, ttl_ms: u64, changes: Vec<HashChange>| {
            let at = *known.entry(owner.clone()).or_insert(by_owner.len());
            if at == by_owner.len() {
                by_owner.push((owner, 0, Vec::new()));
            }
            by_owner[at].1 = by_owner[at].1.max(ttl_ms);
            by_owner[at].2.extend(changes);
        };
        for (user, change) in &changes {
            let (ttl_ms, hash_changes) = hash_changes(change, node, unix_ms);
            note(CountedOwner::User(user.clone()), ttl_ms, hash_changes);
        }
        self.users.in_flight_counts.clone_from(&owners);
        for owner in owners {
            let field = count_field(node);
            let waiting = self.users.reservations.tell(&owner);
            let change = match self.quotas.sessions_of(&owner) + waiting {
                0 => HashChange::Remove(field),
                count => {
                    self.users.counted.insert(owner.clone());
                    HashChange::Set(field, count.to_string())
                }
            };
            if matches!(change, HashChange::Remove(_)) {
                self.users.counted.remove(&owner);
            }
            note(owner, NODE_COUNT_TTL_MS, vec![change]);
        }
        self.users.in_flight = changes;
        let (names, scripts) = (&connection.names, &connection.scripts);
        let commands = by_owner.iter().map(|(owner, ttl_ms, changes)| {
            scripts.change_hash(&names.owner(owner), *ttl_ms, changes)
        });
        commands.collect()
    }

    pub(super) fn users_served(
        &mut self,
        changed: Vec<Result<Value, RedisError>>,
        nodes: &NodesThere,
        arrived: Arrivals,
        now_ms: u64,
    ) {
        let (mut rejected, mut is_refused) = (0, false);
        for error in changed.into_iter().filter_map(Result::err) {
            if failure(&error) != Failure::Rejected {
                return self.lose(&error.to_string(), now_ms);
            }
            if takes_nothing(&error) {
                is_refused = true;
                continue;
            }
            if rejected == 0 {
                tracing::error!(%error, "Redis rejects what nodes share of users");
            }
            rejected += 1;
        }
        let counters = &self.engine.link().counters;
        counters.user_changes_dropped.add(rejected);
        self.users.is_busy = false;
        let ended = std::mem::take(&mut self.users.in_flight);
        if is_refused {
            // It will store something again; what it has taken of these may be told twice.
            self.users.refused_until_ms = now_ms + NODE_REFUSED_MS;
            let owners = self.users.in_flight_counts.drain();
            self.users.recounts.extend(owners.map(|owner| (0, owner)));
            self.engine.link().put_back_user_changes(ended);
        } else {
            self.engine.link().end_user_changes(&ended);
        }
        self.users_arrived(arrived, nodes, now_ms);
    }

    fn users_arrived(&mut self, arrived: Arrivals, nodes: &NodesThere, now_ms: u64) {
        for (mut waiting, known) in arrived {
            waiting.looks += 1;
            match known {
                Ok(None) => self.reject_or_look_again(waiting, now_ms),
                Ok(Some(known)) => {
                    if !std::mem::replace(&mut waiting.is_counted, true) {
                        for owner in counted_owners(&waiting.arrival) {
                            self.users.reservations.add(owner);
                        }
                    }
                    if let Some(due_ms) = self.second_look_ms(&waiting, &known, nodes, now_ms) {
                        self.users.second_looks.push((due_ms, waiting));
                        continue;
                    }
                    // What changes on this node all the time is known better here.
                    if !self.engine.link().is_changing(&waiting.arrival.user) {
                        self.take_over(&waiting.arrival, &known, nodes);
                    }
                    // Fails when the session has ended.
                    let may_begin = !waiting.admit.is_closed();
                    self.users.end_reservations(&waiting, may_begin, now_ms);
                    let _ = waiting.admit.send(true);
                }
                // Told by the end of the sender.
                Err(error) if failure(&error) == Failure::Rejected => {
                    self.users.end_reservations(&waiting, true, now_ms);
                    self.engine.link().counters.user_changes_dropped.add(1);
                    let counted = counted_owners(&waiting.arrival);
                    let due_ms = now_ms + NODE_ADMISSION_MS;
                    let counted = counted.map(|owner| (due_ms, owner));
                    self.users.recounts.extend(counted);
                }
                Err(error) => self.lose(&error.to_string(), now_ms),
            }
        }
    }

    /// There are too many sessions. One may just be ending on another node.
    fn reject_or_look_again(&mut self, waiting: WaitingUser, now_ms: u64) {
        let user = &waiting.arrival.user;
        if let Some((tenant, _)) = &waiting.arrival.tenant {
            // It may be counted there.
            let owner = CountedOwner::Tenant(user.dialect, tenant.clone());
            self.engine.link().recount(owner);
        }
        if waiting.looks > 1 {
            let _ = waiting.admit.send(false);
            return;
        }
        let due_ms = now_ms + NODE_SECOND_LOOK_MS;
        self.users.second_looks.push((due_ms, waiting));
    }

    /// When it is asked again about a user, as what Redis has said may be outdated: something has changed here
    /// meanwhile, or a session on another node may be ending.
    fn second_look_ms(
        &self,
        waiting: &WaitingUser,
        known: &KnownUser,
        nodes: &NodesThere,
        now_ms: u64,
    ) -> Option<u64> {
        if self.engine.link().is_changing(&waiting.arrival.user) {
            return (waiting.looks < NODE_LOOKS_MAX).then_some(now_ms);
        }
        let is_live = waiting.arrival.offline_ttl_ms.is_some()
            && live_fields(known).any(|(node, _)| nodes.has_other(node));
        (is_live && waiting.looks == 1).then_some(now_ms + NODE_SECOND_LOOK_MS)
    }

    /// Takes over what Redis knows of a user.
    fn take_over(&self, arrival: &UserArrival, known: &KnownUser, nodes: &NodesThere) {
        let state = &self.engine.process_state;
        let now = self.clock.now();
        if let Some(ttl_ms) = arrival.offline_ttl_ms {
            let outdated = outdated_fields(known, now, |node| nodes.may_hold(node));
            if !outdated.is_empty() {
                let change = UserChange::Outdated { fields: outdated };
                self.engine.link().change_user(arrival.user.clone(), change);
            }
            let channels = offline_channels(known, now, |node| nodes.has_other(node));
            let channels = channels
                .into_iter()
                .map(|(channel, offset)| (state.interests.tag(&channel), offset));
            let channels: Vec<_> = channels.collect();
            let user = &arrival.user;
            let name = quota_user(user.tenant.as_deref(), &user.user);
            let key = state.offline.key(user.dialect, &name);
            state
                .offline
                .replace(key, &channels, now.monotonic_ms + ttl_ms);
        }
        if arrival.persistent_ttl_ms.is_some() {
            take_over_subscriptions(state, &arrival.user, known, now);
        }
    }
}

/// The field of the sessions of a node.
fn count_field(node: u64) -> String {
    format!("{COUNT_FIELD}{}", node_name(node))
}

/// The commands that count the sessions of those who arrive on a node, first of the tenant, and read what is
/// known.
fn arrival_commands(
    connection: &Connection,
    node: u64,
    nodes: &[u64],
    waiting: &[WaitingUser],
) -> Vec<Cmd> {
    let others = nodes.iter().copied().filter(|other| *other != node);
    let all: Vec<_> = others.chain([node]).map(count_field).collect();
    let own = count_field(node);
    let (names, scripts) = (&connection.names, &connection.scripts);
    let mut commands = Vec::new();
    for waiting in waiting {
        let arrival = &waiting.arrival;
        let ttl_ms = arrival.persistent_ttl_ms.unwrap_or(0);
        if let Some((tenant, max)) = arrival.tenant.as_ref().filter(|_| !waiting.is_counted) {
            let owner = CountedOwner::Tenant(arrival.user.dialect, tenant.clone());
            let key = names.owner(&owner);
            commands.push(scripts.count_session(&key, (&own, &all), Some(*max), 0));
        }
        let key = names.owner(&CountedOwner::User(arrival.user.clone()));
        let sessions_max = arrival.sessions_max.filter(|_| !waiting.is_counted);
        commands.push(scripts.count_session(&key, (&own, &all), sessions_max, ttl_ms));
    }
    commands
}

/// The nodes with a lease that are not connected to Redis, of those that users who arrive have sessions on: who
/// comes back from a node that was killed does not wait for the end of its lease.
async fn silent_nodes(
    connection: &mut Connection,
    nodes: &NodesThere,
    arrived: &Arrivals,
) -> Vec<u64> {
    let known = arrived
        .iter()
        .filter(|(waiting, _)| waiting.arrival.offline_ttl_ms.is_some());
    let known = known.filter_map(|(_, known)| known.as_ref().ok()?.as_ref());
    let others: HashSet<u64> = known
        .flat_map(|known| live_fields(known).map(|(node, _)| node))
        .filter(|node| nodes.has_other(*node))
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    let others: Vec<_> = others.into_iter().collect();
    let names = &connection.names;
    let greetings = others
        .iter()
        .map(|node| names.publish(&names.node_channel(*node), b""));
    let answers = connection.run(greetings.collect()).await;
    let silent = others.into_iter().zip(answers);
    let silent = silent.filter(|(_, answer)| matches!(answer, Ok(Value::Int(0))));
    silent.map(|(node, _)| node).collect()
}

/// What is known of each who has arrived.
fn read_answers(waiting: Vec<WaitingUser>, answers: Vec<Result<Value, RedisError>>) -> Arrivals {
    let mut answers = answers.into_iter();
    let mut next = || {
        answers
            .next()
            .map_or(Ok(None), |answer| answer.map(read_known))
    };
    let arrived = waiting.into_iter().map(|waiting| {
        let has_tenant = waiting.arrival.tenant.is_some() && !waiting.is_counted;
        let of_tenant = has_tenant.then(&mut next);
        let known = match (of_tenant, next()) {
            (Some(Err(error)), _) => Err(error),
            // The tenant has too many.
            (Some(Ok(None)), _) => Ok(None),
            (_, known) => known,
        };
        (waiting, known)
    });
    arrived.collect()
}

/// Those whose sessions are counted.
fn counted_owners(arrival: &UserArrival) -> impl Iterator<Item = CountedOwner> {
    let dialect = arrival.user.dialect;
    let tenant = arrival.tenant.as_ref();
    let tenant = tenant.map(|(tenant, _)| CountedOwner::Tenant(dialect, tenant.clone()));
    let user = arrival.sessions_max;
    let user = user.map(|_| CountedOwner::User(arrival.user.clone()));
    tenant.into_iter().chain(user)
}

/// How long a change is of use, and what it is in the hash of the user.
fn hash_changes(change: &UserChange, node: u64, unix_ms: u64) -> (u64, Vec<HashChange>) {
    let live = |channel: &str| format!("{LIVE_FIELD}{} {channel}", node_name(node));
    let position = |channel: &str| format!("{POSITION_FIELD}{channel}");
    let subscription = |channel: &str| format!("{SUBSCRIPTION_FIELD}{channel}");
    match change {
        UserChange::Subscribed { channel, offset } => {
            let until_ms = unix_ms + NODE_COUNT_TTL_MS;
            let changes = vec![
                HashChange::Keep(position(channel), *offset, until_ms),
                HashChange::Set(live(channel), "1".to_owned()),
            ];
            (NODE_COUNT_TTL_MS, changes)
        }
        UserChange::Stopped { channels, ttl_ms } => {
            let until_ms = unix_ms.saturating_add(*ttl_ms);
            let changes = channels.iter().flat_map(|(channel, offset, is_last)| {
                let set = HashChange::Set(position(channel), format!("{offset} {until_ms}"));
                let remove = is_last.then(|| HashChange::Remove(live(channel)));
                [Some(set), remove].into_iter().flatten()
            });
            (*ttl_ms, changes.collect())
        }
        UserChange::Unsubscribed { channel } => {
            let changes = vec![
                HashChange::Remove(live(channel)),
                HashChange::RemovePosition(channel.to_string()),
            ];
            (0, changes)
        }
        UserChange::OfflineRemoved => (0, vec![HashChange::RemoveAll(POSITION_FIELD)]),
        UserChange::Remembered { channel, ttl_ms } => {
            let change = HashChange::SetNew(subscription(channel), unix_ms.to_string());
            (*ttl_ms, vec![change])
        }
        UserChange::Released { channels, ttl_ms } => {
            let revive = channels.iter().enumerate().map(|(at, channel)| {
                let since_ms = unix_ms + at as u64;
                HashChange::Revive(subscription(channel), since_ms.to_string())
            });
            (*ttl_ms, revive.collect())
        }
        UserChange::Outdated { fields } => {
            (0, fields.iter().cloned().map(HashChange::Remove).collect())
        }
        UserChange::Forgotten { channel } => (0, vec![HashChange::Remove(subscription(channel))]),
    }
}

/// The nodes with sessions of a user that are subscribed, each with a channel.
fn live_fields(known: &KnownUser) -> impl Iterator<Item = (u64, &str)> {
    known.keys().filter_map(|field| {
        let (node, channel) = field.strip_prefix(LIVE_FIELD)?.split_once(' ')?;
        Some((node_number(node)?, channel))
    })
}

/// The fields of nodes that are gone, and of positions that are too old.
fn outdated_fields(known: &KnownUser, now: Now, is_there: impl Fn(u64) -> bool) -> Vec<String> {
    let is_outdated = |field: &str, value: &str| -> Option<bool> {
        if let Some(rest) = field.strip_prefix(LIVE_FIELD) {
            let (node, _) = rest.split_once(' ')?;
            return Some(!is_there(node_number(node)?));
        }
        if let Some(node) = field.strip_prefix(COUNT_FIELD) {
            return Some(!is_there(node_number(node)?));
        }
        field.strip_prefix(POSITION_FIELD)?;
        let (_, until_ms) = value.split_once(' ')?;
        Some(until_ms.parse::<u64>().ok()? <= now.unix_ms)
    };
    let fields = known.iter();
    let outdated = fields.filter(|(field, value)| is_outdated(field, value) == Some(true));
    outdated.map(|(field, _)| field.clone()).collect()
}

/// Where a user stopped on each channel; `None` = a session on another node is subscribed.
fn offline_channels(
    known: &KnownUser,
    now: Now,
    is_there: impl Fn(u64) -> bool,
) -> Vec<(String, Option<u64>)> {
    let live = live_fields(known).filter(|(node, _)| is_there(*node));
    let live = live.map(|(_, channel)| channel.to_owned());
    let mut channels: HashMap<String, Option<u64>> = live.map(|channel| (channel, None)).collect();
    for (field, value) in known {
        let position = field.strip_prefix(POSITION_FIELD).and_then(|channel| {
            let (offset, until_ms) = value.split_once(' ')?;
            let until_ms: u64 = until_ms.parse().ok()?;
            let offset: u64 = offset.parse().ok()?;
            (until_ms > now.unix_ms).then_some((channel, offset))
        });
        if let Some((channel, offset)) = position {
            channels.entry(channel.to_owned()).or_insert(Some(offset));
        }
    }
    channels.into_iter().collect()
}

/// Makes the persistent subscriptions of a user those that Redis knows.
fn take_over_subscriptions(state: &ProcessState, user: &NodeUser, known: &KnownUser, now: Now) {
    let channels = known.iter().filter_map(|(field, since_ms)| {
        let channel = field.strip_prefix(SUBSCRIPTION_FIELD)?;
        Some((since_ms.parse::<u64>().ok()?, channel))
    });
    let mut channels: Vec<_> = channels.collect();
    channels.sort_unstable();
    let channels: Vec<_> = channels.into_iter().map(|(_, channel)| channel).collect();
    let table = &state.persistent;
    let (before, expires_ms) = table.export(user);
    if expires_ms != u64::MAX {
        let expires_ms = now.monotonic_ms.saturating_add(table.ttl_ms());
        return table.load(user, &channels, expires_ms);
    }
    if known.is_empty() {
        // Redis has lost what it knew; it is told again when the last session here ends.
        return;
    }
    // Sessions here hold it.
    for channel in before.iter().filter(|it| !channels.contains(&&***it)) {
        table.remove(user, channel);
    }
    for channel in channels {
        let _ = table.insert(user, channel, true);
    }
}

/// The answer of the script: `None` = there are too many sessions.
fn read_known(value: Value) -> Option<KnownUser> {
    let Value::Array(parts) = value else {
        return None;
    };
    let mut parts = parts.into_iter();
    match parts.next()? {
        // Fields that are no text are none of a node's.
        Value::Int(1) => Some(redis::from_redis_value(parts.next()?).unwrap_or_default()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DialectId;

    const NODE: u64 = 0xa;
    const NOW: Now = Now {
        monotonic_ms: 0,
        unix_ms: 1_000,
    };

    /// What a hash holds after changes.
    fn after(changes: &[UserChange]) -> KnownUser {
        let mut known = KnownUser::new();
        for change in changes
            .iter()
            .flat_map(|change| hash_changes(change, NODE, NOW.unix_ms).1)
        {
            match change {
                HashChange::Set(field, value) => {
                    known.insert(field, value);
                }
                HashChange::SetNew(field, value) => {
                    known.entry(field).or_insert(value);
                }
                HashChange::Keep(field, offset, until_ms) => {
                    let before = known.get(&field).and_then(|it| it.split_once(' '));
                    let offset = before.map_or(offset.to_string(), |(offset, _)| offset.to_owned());
                    known.insert(field, format!("{offset} {until_ms}"));
                }
                HashChange::Revive(field, value) if known.is_empty() => {
                    known.insert(field, value);
                }
                HashChange::Revive(..) => {}
                HashChange::RemovePosition(channel) => {
                    if !live_fields(&known).any(|(_, other)| other == channel) {
                        known.remove(&format!("{POSITION_FIELD}{channel}"));
                    }
                }
                HashChange::Remove(field) => {
                    known.remove(&field);
                }
                HashChange::RemoveAll(letter) => {
                    known.retain(|field, _| !field.starts_with(letter))
                }
            }
        }
        known
    }

    fn subscribed(offset: u64) -> UserChange {
        UserChange::Subscribed {
            channel: "a b".into(),
            offset,
        }
    }

    fn stopped(offset: u64, is_last: bool) -> UserChange {
        UserChange::Stopped {
            channels: vec![("a b".into(), offset, is_last)],
            ttl_ms: 500,
        }
    }

    #[test]
    fn where_a_user_stopped_is_known_until_it_is_too_long_ago() {
        let known = after(&[subscribed(3), stopped(7, true)]);
        let at = |unix_ms| offline_channels(&known, Now { unix_ms, ..NOW }, |_| true);
        assert_eq!(at(1_499), [("a b".to_owned(), Some(7))]);
        assert_eq!(at(1_500), []);
    }

    #[test]
    fn a_session_on_a_node_that_is_there_misses_nothing_and_one_on_a_dead_one_since_it_came() {
        let known = after(&[subscribed(3)]);
        let with = |is_there| offline_channels(&known, NOW, |node| node == NODE && is_there);
        assert_eq!(with(true), [("a b".to_owned(), None)]);
        assert_eq!(with(false), [("a b".to_owned(), Some(3))]);
        let known = after(&[subscribed(3), stopped(9, false)]);
        assert_eq!(
            offline_channels(&known, NOW, |_| true)[0].1,
            None,
            "one is left"
        );
    }

    #[test]
    fn nothing_is_left_of_what_a_user_does_not_want_any_more() {
        let channel: Box<str> = "a b".into();
        let ttl_ms = 5;
        let remembered = UserChange::Remembered {
            channel: channel.clone(),
            ttl_ms,
        };
        let forgotten = UserChange::Forgotten {
            channel: channel.clone(),
        };
        let unsubscribed = UserChange::Unsubscribed { channel };
        assert_eq!(after(&[subscribed(3), unsubscribed]), KnownUser::new());
        assert_eq!(after(&[remembered.clone(), forgotten]), KnownUser::new());
        assert_eq!(after(&[remembered, UserChange::OfflineRemoved]).len(), 1);
    }

    #[test]
    fn persistent_subscriptions_are_those_of_redis_whether_sessions_hold_them_or_not() {
        use crate::base::persistent::{PersistentLimits, PersistentSubscriptions};
        let limits = PersistentLimits {
            per_user_max: 5,
            users_max: 5,
            ttl_ms: 100,
        };
        let table = PersistentSubscriptions::new(limits);
        let state = ProcessState::default().with_persistent(table);
        let user = NodeUser {
            dialect: DialectId::Gateway,
            tenant: None,
            user: "ann".into(),
        };
        let known = |fields: &[(&str, &str)]| -> KnownUser {
            let fields = fields.iter();
            fields
                .map(|(field, value)| ((*field).to_owned(), (*value).to_owned()))
                .collect()
        };
        let names = || -> Vec<String> {
            let (channels, _) = state.persistent.export(&user);
            channels.iter().map(ToString::to_string).collect()
        };
        take_over_subscriptions(
            &state,
            &user,
            &known(&[("sb", "2"), ("sa", "3"), ("pb", "1")]),
            NOW,
        );
        assert_eq!(names(), ["b", "a"]);
        assert_eq!(state.persistent.restore(&user, false, 0).len(), 2);
        take_over_subscriptions(&state, &user, &known(&[("sa", "3"), ("sc", "4")]), NOW);
        assert_eq!(names(), ["a", "c"]);
        state.persistent.release(&user, 0);
        take_over_subscriptions(&state, &user, &known(&[]), NOW);
        assert_eq!(names(), [""; 0]);
        assert_eq!(state.persistent.stats().users, 0);
    }
}
