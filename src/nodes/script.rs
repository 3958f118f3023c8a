//! What Redis does in one step: the scripts, and the names of what they use.
//!
//! Of each channel with a history, Redis has a hash with the epoch and the newest offset, and a stream of
//! messages whose ids are the offsets. Both are removed when nothing is published for long. All names of a
//! channel have the same hash tag, so that a cluster has them in one slot.

use super::message::{DELETED, VERSION};
use super::told_presence::{self, SESSIONS_FIELD, USER_FIELD, node_name};
use super::users::HashChange;
use crate::base::limits::{
    NODE_COUNT_TTL_MS, NODE_PRESENCE_TTL_MS, NODE_RETAINED_NUMBERS_TTL_MS, NODE_USER_FIELDS_MAX,
    RETAINED_PER_CHANNEL_MAX,
};
use crate::base::{CountedOwner, HistoryLimits, LocalPresence, NodeUser, Telling};
use redis::{Cmd, cmd};

/// Numbers, stores and publishes messages of one node on one channel, in their order. The hash has the number of
/// the last one of each node, so that what a node sends again after a lost connection is not stored twice; of
/// nodes that are long gone these are removed.
///
/// Keys: hash, stream, retained values. Arguments: a new epoch in case there is none, the count of messages to
/// keep, the time to keep them without new ones in milliseconds, the command that publishes, the channel, the
/// field of the node, the count of retained values that change, of each the number of its message, its key, and
/// `+` and the value or `-`, and of each message what follows its epoch. Returns the newest offset and the epoch.
const PUBLISH: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('DEL', KEYS[2])
end
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
local newest = tonumber(redis.call('HGET', KEYS[1], ARGV[6]) or '0')
RETAIN(KEYS[3], 7, newest)
for i = 8 + 3 * ARGV[7], #ARGV do
  local number = tonumber(string.match(ARGV[i], '^%x+ (%d+) '))
  if number > newest then
    newest = number
    offset = offset + 1
    local message = string.format('VERSION %.0f %s %s', offset, epoch, ARGV[i])
    redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], string.format('%.0f-0', offset), 'm', message)
    redis.call(ARGV[4], ARGV[5], message)
  end
end
forget_nodes(KEYS[1])
local last = string.format('%.0f', offset)
redis.call('HSET', KEYS[1], 'offset', last, ARGV[6], string.format('%.0f', newest))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {last, epoch}
";

/// Publishes messages on one channel without a history, in their order: in a cluster, commands of their own may
/// overtake each other. What a node sends again is published again, as some may not have received it, but changes
/// no retained value: another node may have changed it since.
///
/// Keys: the channel, retained values, the hash with the number of the last message of each node that has changed
/// some. Arguments: the command that publishes, the field of the node, the time to keep its number in
/// milliseconds, the count of retained values that change and each of them as above, and the messages.
const PUBLISH_ONLY: &str = r"
local newest = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or '0')
local last = RETAIN(KEYS[2], 4, newest)
if last > newest then
  forget_nodes(KEYS[3])
  redis.call('HSET', KEYS[3], ARGV[2], string.format('%.0f', last))
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
for i = 5 + 3 * ARGV[4], #ARGV do
  redis.call(ARGV[1], KEYS[1], ARGV[i])
end
return 1
";

/// How a script changes retained values: their count is the argument with the number `at`, and they follow it.
/// Those of messages up to the number `newest` were changed before. Returns the number of the last one. And how it
/// forgets the numbers of nodes, when there are many.
const RETAIN: &str = r"
local function RETAIN(key, at, newest)
  for i = at + 1, at + 3 * ARGV[at], 3 do
    local number = tonumber(ARGV[i])
    if number > newest then
      newest = number
      local field, value = ARGV[i + 1], ARGV[i + 2]
      if value == '-' then
        redis.call('HDEL', key, field)
      elseif redis.call('HLEN', key) < RETAINED_MAX or redis.call('HEXISTS', key, field) == 1 then
        redis.call('HSET', key, field, string.sub(value, 2))
      end
    end
  end
  return newest
end
local function forget_nodes(hash)
  if redis.call('HLEN', hash) > 100 then
    for _, field in ipairs(redis.call('HKEYS', hash)) do
      if string.sub(field, 1, 1) == 'n' then
        redis.call('HDEL', hash, field)
      end
    end
  end
end
";

/// Reads the messages of one channel after a position. A stream whose hash is gone, as Redis has evicted it, is
/// removed, as its offsets would be given again.
///
/// Keys: hash, stream. Arguments: a new epoch in case there is none, the time to keep the channel in
/// milliseconds, the epoch and the offset after which messages are wanted (0 = all), and at most how many.
/// If Redis has lost messages that the caller has, the epoch changes. Returns the epoch, the newest offset,
/// and the messages; all of them where the caller's epoch is another one.
const CATCH_UP: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local last = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
if not epoch or (epoch == ARGV[3] and last < tonumber(ARGV[4])) then
  if not epoch then
    redis.call('DEL', KEYS[2])
  end
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local from = '-'
if epoch == ARGV[3] then
  from = '(' .. ARGV[4]
end
local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[5])
local messages = {}
for i, entry in ipairs(found) do
  messages[i] = entry[2][2]
end
return {epoch, string.format('%.0f', last), messages}
";

/// Renews the lease of a node, and returns the nodes that have one. Only who takes one removes those that are
/// over: while Redis takes nothing, nobody can renew theirs.
///
/// Keys: the leases. Arguments: the node, the length of the lease in milliseconds (0 = it takes none), and whether
/// it has one (`1`): if that is gone, it takes none before it has told all again.
const RENEW: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local is_lost = ARGV[3] == '1' and (not score or tonumber(score) <= now)
if ARGV[2] ~= '0' and not is_lost then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
end
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')
";

/// Keeps who of a node is on a channel, and tells the nodes that follow it.
///
/// Keys: the hash of the node on the channel. Arguments: the time to keep it in milliseconds, the command that
/// publishes, the channel, what to publish, whether these are all (`1`), the count of sessions, and of each
/// user the field and the count, `0` without a session.
const TELL_PRESENCE: &str = r"
if ARGV[5] == '1' or ARGV[6] == '0' then
  redis.call('DEL', KEYS[1])
end
if ARGV[6] ~= '0' then
  redis.call('HSET', KEYS[1], 'SESSIONS', ARGV[6])
  for i = 7, #ARGV, 2 do
    if ARGV[i + 1] == '0' then
      redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call(ARGV[2], ARGV[3], ARGV[4])
";

/// Counts one session more of a user or a tenant, and returns what is known of it.
///
/// Keys: its hash. Arguments: how many sessions there may be on all nodes (`-` = they are not counted), the time
/// to keep the count in milliseconds, the field of this node, and those of all nodes that are there. Returns 0
/// if there are too many, else 1 and the hash.
const COUNT_SESSION: &str = r"
if ARGV[1] ~= '-' then
  local sum = 0
  for i = 4, #ARGV do
    sum = sum + (redis.call('HGET', KEYS[1], ARGV[i]) or 0)
  end
  if sum >= tonumber(ARGV[1]) then
    return {0}
  end
  redis.call('HINCRBY', KEYS[1], ARGV[3], 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[2], 'NX')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2], 'GT')
return {1, redis.call('HGETALL', KEYS[1])}
";

/// Changes a hash. What would be new is left out when there are too many fields.
///
/// Keys: the hash. Arguments: the time to keep it at least in milliseconds, how many fields there may be, and of
/// each change what is to be done, the field, and two values. A hash in which nothing is left but where the user
/// has stopped is kept as long as that is of use.
const CHANGE_HASH: &str = r"
local hash = KEYS[1]
local is_new = redis.call('EXISTS', hash) == 0
local live = nil
local function count_live(field, change)
  local channel = live and string.match(field, '^l%x+ (.*)$')
  if channel then
    live[channel] = (live[channel] or 0) + change
  end
end
local function is_live(channel)
  if not live then
    live = {}
    for _, field in ipairs(redis.call('HKEYS', hash)) do
      count_live(field, 1)
    end
  end
  return (live[channel] or 0) > 0
end
local function set(field, value)
  if redis.call('HLEN', hash) < tonumber(ARGV[2]) or redis.call('HEXISTS', hash, field) == 1 then
    count_live(field, redis.call('HSET', hash, field, value))
  end
end
local may_shrink = false
for i = 3, #ARGV, 4 do
  local what, field, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if what == 'set' then
    set(field, value)
    may_shrink = may_shrink or string.sub(field, 1, 1) == 'p'
  elseif what == 'new' then
    if redis.call('HEXISTS', hash, field) == 0 then
      set(field, value)
    end
  elseif what == 'keep' then
    local offset = string.match(redis.call('HGET', hash, field) or '', '^(%d+) ') or value
    set(field, offset .. ' ' .. ARGV[i + 3])
  elseif what == 'revive' then
    if is_new then
      set(field, value)
    end
  elseif what == 'position' then
    if not is_live(field) then
      redis.call('HDEL', hash, 'p' .. field)
    end
  elseif what == 'del' then
    count_live(field, -redis.call('HDEL', hash, field))
    may_shrink = true
  else
    for _, other in ipairs(redis.call('HKEYS', hash)) do
      if string.sub(other, 1, 1) == field then
        redis.call('HDEL', hash, other)
      end
    end
  end
end
if ARGV[1] ~= '0' then
  redis.call('PEXPIRE', hash, ARGV[1], 'NX')
  redis.call('PEXPIRE', hash, ARGV[1], 'GT')
end
if may_shrink then
  local newest = 0
  local all = redis.call('HGETALL', hash)
  for i = 1, #all, 2 do
    local until_ms = string.match(all[i], '^p') and string.match(all[i + 1], '^%d+ (%d+)$')
    if not until_ms then
      return 1
    end
    newest = math.max(newest, tonumber(until_ms))
  end
  if newest > 0 then
    redis.call('PEXPIREAT', hash, string.format('%.0f', newest))
  end
end
return 1
";

/// Deletes the history of one channel. The epoch changes and the offsets go on, so that nodes that were away
/// know that what they have is deleted; the others are told on the channel.
///
/// Keys: hash, stream. Arguments: a new epoch, the time to keep the channel in milliseconds, the command that
/// publishes, and the channel.
const DELETE: &str = r"
local last = tonumber(redis.call('HGET', KEYS[1], 'offset') or '0')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
redis.call(ARGV[3], ARGV[4], string.format('DELETED %.0f %s', last, ARGV[1]))
return ARGV[1]
";

/// Names in Redis.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// How all begin.
    pub(super) prefix: String,
    /// Whether channels belong to a node of a cluster.
    pub(super) is_sharded: bool,
}

impl Names {
    /// The channel in Redis of a channel.
    pub(super) fn channel(&self, name: &str) -> String {
        format!("{}{name}}}", self.start())
    }

    /// The channel of a channel in Redis.
    pub(super) fn name<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        let channel = std::str::from_utf8(channel).ok()?;
        channel.strip_prefix(&*self.start())?.strip_suffix('}')
    }

    /// With a letter, so that the hash tag is not empty even if the name begins with a brace.
    fn start(&self) -> String {
        format!("{}:{{c:", self.prefix)
    }

    fn keys(&self, name: &str) -> [String; 2] {
        let channel = self.channel(name);
        [format!("{channel}:meta"), format!("{channel}:history")]
    }

    /// The channel in Redis that one node is subscribed to: who publishes there learns whether it is connected.
    pub(super) fn node_channel(&self, node: u64) -> String {
        format!("{}:{{nodes}}:{}", self.prefix, node_name(node))
    }

    fn leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.prefix)
    }

    /// The command that ends the lease of a node.
    pub(super) fn give_up_lease(&self, node: u64) -> Cmd {
        let mut command = cmd("ZREM");
        command.arg(self.leases()).arg(node_name(node));
        command
    }

    /// The hash of a user or a tenant. No tenant has a colon.
    pub(super) fn owner(&self, owner: &CountedOwner) -> String {
        let prefix = &self.prefix;
        match owner {
            CountedOwner::User(NodeUser {
                dialect,
                tenant,
                user,
            }) => {
                let (dialect, tenant) = (dialect.name(), tenant.as_deref().unwrap_or_default());
                format!("{prefix}:{{u:{dialect}:{tenant}:{user}}}")
            }
            CountedOwner::Tenant(dialect, tenant) => {
                format!("{prefix}:{{t:{}:{tenant}}}", dialect.name())
            }
        }
    }

    fn presence(&self, name: &str, node: u64) -> String {
        format!("{}:presence:{}", self.channel(name), node_name(node))
    }

    fn retained(&self, name: &str) -> String {
        format!("{}:retained", self.channel(name))
    }

    /// The hash with the numbers of the messages that have changed retained values.
    fn retained_numbers(&self, name: &str) -> String {
        format!("{}:retained:numbers", self.channel(name))
    }

    /// The command that reads the retained values of a channel.
    pub(super) fn read_retained(&self, name: &str) -> Cmd {
        let mut command = cmd("HGETALL");
        command.arg(self.retained(name));
        command
    }

    /// The command that reads what Redis keeps of a node on a channel.
    pub(super) fn read_presence(&self, name: &str, node: u64) -> Cmd {
        let mut command = cmd("HGETALL");
        command.arg(self.presence(name, node));
        command
    }

    /// What all names of histories match.
    pub(super) fn histories(&self) -> String {
        format!("{}*}}:history", literal(&self.start()))
    }

    /// The channel of a history, by its name in Redis.
    pub(super) fn name_of_history<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        self.name(key.strip_suffix(b":history")?)
    }

    /// Where the count of deletions in all histories is.
    pub(super) fn deletions(&self) -> String {
        format!("{}:{{nodes}}:deletions", self.prefix)
    }

    fn publish_command(&self) -> &'static str {
        if self.is_sharded {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// The command that publishes a message on a channel in Redis.
    pub(super) fn publish(&self, channel: &str, message: &[u8]) -> Cmd {
        let mut command = cmd(self.publish_command());
        command.arg(channel).arg(message);
        command
    }
}

/// The scripts, by their hashes.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    publish: (String, String),
    publish_only: (String, String),
    catch_up: (String, String),
    renew: (String, String),
    tell_presence: (String, String),
    count_session: (String, String),
    change_hash: (String, String),
    delete: (String, String),
}

/// What of a channel is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct CatchUp<'a> {
    pub(super) name: &'a str,
    pub(super) ttl_ms: u64,
    /// Epoch and offset after which messages are wanted.
    pub(super) after: (u32, u64),
    pub(super) count_max: usize,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let hashed = |text: &str| {
            let text = text.replace("VERSION", VERSION);
            let text = text.replace("SESSIONS", SESSIONS_FIELD);
            let text = match text.contains("RETAIN(") {
                true => format!("{RETAIN}{text}"),
                false => text,
            };
            let text = text.replace("RETAINED_MAX", &RETAINED_PER_CHANNEL_MAX.to_string());
            let text = text.replace("RETAIN(", "retain(");
            let text = text.replace("DELETED", DELETED);
            let hash = redis::Script::new(&text).get_hash().to_owned();
            (text, hash)
        };
        Self {
            publish: hashed(PUBLISH),
            publish_only: hashed(PUBLISH_ONLY),
            catch_up: hashed(CATCH_UP),
            renew: hashed(RENEW),
            tell_presence: hashed(TELL_PRESENCE),
            count_session: hashed(COUNT_SESSION),
            change_hash: hashed(CHANGE_HASH),
            delete: hashed(DELETE),
        }
    }

    /// The commands that make the scripts known.
    pub(super) fn load(&self) -> Vec<Cmd> {
        let scripts = [
            &self.publish,
            &self.publish_only,
            &self.catch_up,
            &self.renew,
            &self.tell_presence,
            &self.count_session,
            &self.change_hash,
            &self.delete,
        ];
        let load = scripts.iter().map(|(text, _)| {
            let mut command = cmd("SCRIPT");
            command.arg("LOAD").arg(text);
            command
        });
        load.collect()
    }

    /// The command that counts one session more of whose hash it is, where `own` is the field of this node
    /// and `all` are those of all nodes; without `sessions_max`, it only reads the hash. It is kept at least so
    /// long, milliseconds.
    pub(super) fn count_session(
        &self,
        key: &str,
        (own, all): (&str, &[String]),
        sessions_max: Option<u32>,
        ttl_ms: u64,
    ) -> Cmd {
        let mut command = invoke(&self.count_session.1, &[key.to_owned()]);
        let max = sessions_max.map_or_else(|| "-".to_owned(), |max| max.to_string());
        let ttl_ms = match sessions_max {
            Some(_) => ttl_ms.max(NODE_COUNT_TTL_MS),
            None => ttl_ms,
        };
        command.arg(max).arg(ttl_ms).arg(own).arg(all);
        command
    }

    /// The command that changes a hash, and keeps it at least so long, milliseconds.
    pub(super) fn change_hash(&self, key: &str, ttl_ms: u64, changes: &[HashChange]) -> Cmd {
        let mut command = invoke(&self.change_hash.1, &[key.to_owned()]);
        command.arg(ttl_ms).arg(NODE_USER_FIELDS_MAX);
        for change in changes {
            let none = String::new;
            let (what, field, values) = match change {
                HashChange::Set(field, value) => ("set", field.clone(), [value.clone(), none()]),
                HashChange::SetNew(field, value) => ("new", field.clone(), [value.clone(), none()]),
                HashChange::Keep(field, offset, until_ms) => {
                    let values = [offset.to_string(), until_ms.to_string()];
                    ("keep", field.clone(), values)
                }
                HashChange::Revive(field, value) => {
                    ("revive", field.clone(), [value.clone(), none()])
                }
                HashChange::RemovePosition(channel) => {
                    ("position", channel.clone(), [none(), none()])
                }
                HashChange::Remove(field) => ("del", field.clone(), [none(), none()]),
                HashChange::RemoveAll(letter) => ("all", letter.to_string(), [none(), none()]),
            };
            command.arg(what).arg(field).arg(&values);
        }
        command
    }

    /// The command that renews the lease of a node.
    pub(super) fn renew(
        &self,
        names: &Names,
        node: u64,
        (lease_ms, has_lease): (u64, bool),
    ) -> Cmd {
        let mut command = invoke(&self.renew.1, &[names.leases()]);
        command
            .arg(node_name(node))
            .arg(lease_ms)
            .arg(u8::from(has_lease));
        command
    }

    /// The command that tells the other nodes who of this one is on a channel.
    pub(super) fn tell_presence(
        &self,
        names: &Names,
        node: u64,
        local: &LocalPresence,
        telling: Telling,
    ) -> Cmd {
        let presence = &local.presence;
        let key = names.presence(&local.name, node);
        let mut command = invoke(&self.tell_presence.1, &[key]);
        command
            .arg(NODE_PRESENCE_TTL_MS)
            .arg(names.publish_command());
        command.arg(names.channel(&local.name));
        command.arg(told_presence::write(node, presence, telling));
        command
            .arg(u8::from(telling == Telling::All))
            .arg(presence.sessions);
        for (user, count) in &presence.users {
            command.arg(format!("{USER_FIELD}{user}")).arg(*count);
        }
        command
    }

    /// The command that publishes messages on a channel without a history.
    pub(super) fn publish_only(
        &self,
        names: &Names,
        name: &str,
        (node, messages): (u64, &[Vec<u8>]),
        retain: &[RetainChange<'_>],
    ) -> Cmd {
        let channel = names.channel(name);
        if let ([message], []) = (messages, retain) {
            return names.publish(&channel, message);
        }
        let keys = [channel, names.retained(name), names.retained_numbers(name)];
        let mut command = invoke(&self.publish_only.1, &keys);
        command.arg(names.publish_command()).arg(number_field(node));
        command.arg(NODE_RETAINED_NUMBERS_TTL_MS);
        add_retained(&mut command, retain);
        command.arg(messages);
        command
    }

    /// The command that publishes messages on a channel with a history.
    pub(super) fn publish(
        &self,
        names: &Names,
        name: &str,
        (limits, ttl_ms): (HistoryLimits, u64),
        (node, tails): (u64, &[Vec<u8>]),
        retain: &[RetainChange<'_>],
    ) -> Cmd {
        let [hash, stream] = names.keys(name);
        let keys = [hash, stream, names.retained(name)];
        let mut command = invoke(&self.publish.1, &keys);
        command.arg(new_epoch()).arg(limits.messages_max);
        command.arg(ttl_ms).arg(names.publish_command());
        command.arg(names.channel(name));
        command.arg(number_field(node));
        add_retained(&mut command, retain);
        command.arg(tails);
        command
    }

    /// The command that reads what follows on a channel.
    pub(super) fn catch_up(&self, names: &Names, of: CatchUp<'_>) -> Cmd {
        let mut command = invoke(&self.catch_up.1, &names.keys(of.name));
        command.arg(new_epoch()).arg(of.ttl_ms);
        command.arg(of.after.0).arg(of.after.1).arg(of.count_max);
        command
    }

    /// The command that deletes the history of a channel.
    pub(super) fn delete(&self, names: &Names, name: &str, ttl_ms: u64) -> Cmd {
        let mut command = invoke(&self.delete.1, &names.keys(name));
        command.arg(new_epoch()).arg(ttl_ms);
        command
            .arg(names.publish_command())
            .arg(names.channel(name));
        command
    }
}

/// A text that Redis matches with itself only.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// The field with the number of the last message of a node.
fn number_field(node: u64) -> String {
    format!("n{}", node_name(node))
}

/// A retained value that changes: the number of its message, its key, and the value unless it is cleared.
pub(super) type RetainChange<'a> = (u64, &'a str, Option<&'a str>);

fn add_retained(command: &mut Cmd, retain: &[RetainChange<'_>]) {
    command.arg(retain.len());
    for (number, key, value) in retain {
        command.arg(*number).arg(*key);
        match value {
            Some(value) => command.arg(format!("+{value}")),
            None => command.arg("-"),
        };
    }
}

fn invoke(hash: &str, keys: &[String]) -> Cmd {
    let mut command = cmd("EVALSHA");
    command.arg(hash).arg(keys.len()).arg(keys);
    command
}

/// A random epoch; not 0, which is that of none.
fn new_epoch() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) >> 32;
    u32::try_from(random).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_are_written_whatever_is_in_them() {
        let names = Names {
            prefix: "fanwire".into(),
            is_sharded: true,
        };
        for name in ["news", "}", "{a}", "tenant:acme:room:1"] {
            let channel = names.channel(name);
            assert_eq!(names.name(channel.as_bytes()), Some(name), "{channel}");
            let [meta, history] = names.keys(name);
            assert!(meta.starts_with(&channel));
            assert_eq!(names.name_of_history(history.as_bytes()), Some(name));
            assert_eq!(names.name_of_history(meta.as_bytes()), None);
        }
        assert_eq!(literal("a*b?[c]\\:{"), "a\\*b\\?\\[c\\]\\\\:{");
        assert_eq!(names.name(b"other:{c:news}"), None);
        assert_eq!(names.name(b"fanwire:{c:\xff}"), None);
    }
}
