//! What a record of the store means. Numbers are little-endian.
//!
//! | kind | key | payload |
//! | --- | --- | --- |
//! | 1 `Begin` | | key of names (16 bytes), incomplete through (u64), settings, runs × (epoch u32, base u64) |
//! | 2 `Run` | | epoch (u32), base (u64), whether earlier runs count (u8), settings |
//! | 3 `Publication` | tag, offset, unix ms (u64 each) | the entry of the history |
//! | 4 `Channel` | tag (u64) | lost through (u64) |
//! | 5 `Part` | number of the part (u64) | lost through (u64) |
//! | 6 `DeletedChannel` | tag (u64) | through (u64) |
//! | 7 `DeletedUser` | user | through (u64), whether there is a tenant (u8), tenant |
//! | 8 `OfflineUser` | key of the user (u64) | expiry in unix ms (u64), channels × (tag u64, offset u64) |
//! | 9 `Lost` | | through (u64) |
//! | 10 `End` | | |
//! | 11 `Mark` | | |
//! | 12 `PersistentUser` | user | expiry in unix ms (u64), dialect, whether there is a tenant (u8), tenant, channels; names with their lengths (u16) |
//! | 13 `Retained` | channel and key, with their lengths (u16) | whether there is a value (u8), the value |
//!
//! Settings: whether publications are acknowledged only when they are stored (u8), and which channels have a
//! history (u64).

use crate::base::history::HistoryRun;
use crate::base::persistent::PersistentUser;
use crate::base::{ChannelTag, DialectId, NameKey};
use crate::store::{AppendError, Appender, Completion, StoredRecord};
use std::sync::Arc;

/// Stands for the offset of a channel to which a session is subscribed.
const SUBSCRIBED: u64 = u64::MAX;

/// What must be known of a process to say what the store has of it: 9 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunSettings {
    /// Whether publications are acknowledged only when they are stored, so that a kill loses nothing.
    pub(super) acknowledges_stored: bool,
    /// Which channels have a history: [`History::coverage`](crate::base::History::coverage).
    pub(super) coverage: u64,
}

impl RunSettings {
    fn append_to(self, payload: &mut Vec<u8>) {
        payload.push(u8::from(self.acknowledges_stored));
        payload.extend_from_slice(&self.coverage.to_le_bytes());
    }
}

/// What a record means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A checkpoint begins: all that counts follows.
    Begin {
        name_key: NameKey,
        incomplete_through: u64,
        settings: RunSettings,
        runs: Vec<HistoryRun>,
    },
    /// A process has started.
    Run {
        run: HistoryRun,
        /// Whether positions of earlier processes still count.
        continues: bool,
        settings: RunSettings,
    },
    /// A publication of a channel, stored at this time.
    Publication {
        tag: ChannelTag,
        offset: u64,
        unix_ms: u64,
        content: &'a [u8],
    },
    /// Entries of a channel up to this offset may have been removed.
    Channel { tag: ChannelTag, lost_through: u64 },
    /// The same of the channels in a part of the table that have no entries.
    Part { part: u64, lost_through: u64 },
    /// The entries of a channel up to this offset were deleted.
    DeletedChannel { tag: ChannelTag, through: u64 },
    /// What was published for a user only, up to this offset, was deleted.
    DeletedUser {
        tenant: Option<&'a str>,
        user: &'a str,
        through: u64,
    },
    /// All that is known of a user from now on.
    OfflineUser {
        user: u64,
        expires_unix_ms: u64,
        channels: Vec<(ChannelTag, Option<u64>)>,
    },
    /// Publications up to this offset are not all in the store.
    Lost { through: u64 },
    /// The checkpoint that began last is complete.
    End,
    /// Nothing: somebody waits until what came before is stored.
    Mark,
    /// All persistent subscriptions of a user from now on.
    PersistentUser {
        user: PersistentUser,
        /// When they are forgotten; `u64::MAX` while a session of the user holds them.
        expires_unix_ms: u64,
        channels: Vec<Arc<str>>,
    },
    /// The retained value of a key of a channel from now on; `None` = there is none.
    Retained {
        channel: &'a str,
        key: &'a str,
        value: Option<&'a str>,
    },
}

/// Reads numbers from the front of bytes.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn settings(&mut self) -> Option<RunSettings> {
        Some(RunSettings {
            acknowledges_stored: self.u8()? != 0,
            coverage: self.u64()?,
        })
    }

    /// A text behind its length.
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.array().map(u16::from_le_bytes)?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn tag(&mut self) -> Option<ChannelTag> {
        self.u64().map(ChannelTag::from_bits)
    }
}

/// Appends a text behind its length; names are limited to some hundred bytes.
fn push_text(output: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    output.extend_from_slice(&length.to_le_bytes());
    output.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

impl<'a> Entry<'a> {
    /// What a record means; `None` if it is of a kind that is not known here, or not well-formed.
    pub(super) fn read(record: &StoredRecord<'a>) -> Option<Self> {
        let (mut key, mut payload) = (Numbers(record.key), Numbers(record.payload));
        Some(match record.kind {
            1 => Self::Begin {
                name_key: NameKey::from_bytes(payload.array()?),
                incomplete_through: payload.u64()?,
                settings: payload.settings()?,
                runs: {
                    let mut runs = Vec::new();
                    while let Some(epoch) = payload.u32() {
                        let base = payload.u64()?;
                        runs.push(HistoryRun { epoch, base });
                    }
                    runs
                },
            },
            2 => Self::Run {
                run: HistoryRun {
                    epoch: payload.u32()?,
                    base: payload.u64()?,
                },
                continues: payload.u8()? != 0,
                settings: payload.settings()?,
            },
            3 => Self::Publication {
                tag: key.tag()?,
                offset: key.u64()?,
                unix_ms: key.u64()?,
                content: record.payload,
            },
            4 => Self::Channel {
                tag: key.tag()?,
                lost_through: payload.u64()?,
            },
            5 => Self::Part {
                part: key.u64()?,
                lost_through: payload.u64()?,
            },
            6 => Self::DeletedChannel {
                tag: key.tag()?,
                through: payload.u64()?,
            },
            7 => Self::DeletedUser {
                user: std::str::from_utf8(record.key).ok()?,
                through: payload.u64()?,
                tenant: match payload.u8()? {
                    0 => None,
                    _ => Some(std::str::from_utf8(payload.0).ok()?),
                },
            },
            8 => Self::OfflineUser {
                user: key.u64()?,
                expires_unix_ms: payload.u64()?,
                channels: {
                    let mut channels = Vec::new();
                    while let Some(tag) = payload.tag() {
                        let offset = payload.u64()?;
                        channels.push((tag, (offset != SUBSCRIBED).then_some(offset)));
                    }
                    channels
                },
            },
            9 => Self::Lost {
                through: payload.u64()?,
            },
            10 => Self::End,
            11 => Self::Mark,
            12 => Self::PersistentUser {
                expires_unix_ms: payload.u64()?,
                user: {
                    let dialect = DialectId::named(payload.text()?)?;
                    let has_tenant = payload.u8()? != 0;
                    let tenant = payload.text()?;
                    PersistentUser {
                        dialect,
                        tenant: has_tenant.then(|| tenant.into()),
                        user: std::str::from_utf8(record.key).ok()?.into(),
                    }
                },
                channels: {
                    let mut channels = Vec::new();
                    while !payload.0.is_empty() {
                        channels.push(payload.text()?.into());
                    }
                    channels
                },
            },
            13 => Self::Retained {
                channel: key.text()?,
                key: key.text()?,
                value: match payload.u8()? {
                    0 => None,
                    _ => Some(std::str::from_utf8(payload.0).ok()?),
                },
            },
            _ => return None,
        })
    }

    /// The largest offset in it, so that no later process gives one that is less.
    pub(super) fn newest_offset(&self) -> u64 {
        match self {
            Self::Begin { runs, .. } => runs.iter().map(|run| run.base).max().unwrap_or(0),
            Self::Run { run, .. } => run.base,
            Self::Publication { offset, .. } => *offset,
            Self::Channel { lost_through, .. } | Self::Part { lost_through, .. } => *lost_through,
            Self::DeletedChannel { through, .. }
            | Self::DeletedUser { through, .. }
            | Self::Lost { through } => *through,
            Self::OfflineUser { channels, .. } => {
                let offsets = channels.iter().filter_map(|(_, offset)| *offset);
                offsets.max().unwrap_or(0)
            }
            Self::End | Self::Mark | Self::PersistentUser { .. } | Self::Retained { .. } => 0,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Begin { .. } => 1,
            Self::Run { .. } => 2,
            Self::Publication { .. } => 3,
            Self::Channel { .. } => 4,
            Self::Part { .. } => 5,
            Self::DeletedChannel { .. } => 6,
            Self::DeletedUser { .. } => 7,
            Self::OfflineUser { .. } => 8,
            Self::Lost { .. } => 9,
            Self::End => 10,
            Self::Mark => 11,
            Self::PersistentUser { .. } => 12,
            Self::Retained { .. } => 13,
        }
    }

    /// Appends the record.
    pub(super) fn append(
        &self,
        appender: &mut Appender,
        completion: Option<Completion>,
    ) -> Result<(), AppendError> {
        let (mut key, mut payload) = (Vec::new(), Vec::new());
        let mut content: Option<&[u8]> = None;
        match self {
            Self::Begin {
                name_key,
                incomplete_through,
                settings,
                runs,
            } => {
                payload.extend_from_slice(&name_key.bytes());
                payload.extend_from_slice(&incomplete_through.to_le_bytes());
                settings.append_to(&mut payload);
                for HistoryRun { epoch, base } in runs {
                    payload.extend_from_slice(&epoch.to_le_bytes());
                    payload.extend_from_slice(&base.to_le_bytes());
                }
            }
            Self::Run {
                run,
                continues,
                settings,
            } => {
                payload.extend_from_slice(&run.epoch.to_le_bytes());
                payload.extend_from_slice(&run.base.to_le_bytes());
                payload.push(u8::from(*continues));
                settings.append_to(&mut payload);
            }
            Self::Publication {
                tag,
                offset,
                unix_ms,
                content: entry,
            } => {
                key.extend_from_slice(&tag.bits().to_le_bytes());
                key.extend_from_slice(&offset.to_le_bytes());
                key.extend_from_slice(&unix_ms.to_le_bytes());
                content = Some(entry);
            }
            Self::Channel { tag, lost_through } => {
                key.extend_from_slice(&tag.bits().to_le_bytes());
                payload.extend_from_slice(&lost_through.to_le_bytes());
            }
            Self::Part { part, lost_through } => {
                key.extend_from_slice(&part.to_le_bytes());
                payload.extend_from_slice(&lost_through.to_le_bytes());
            }
            Self::DeletedChannel { tag, through } => {
                key.extend_from_slice(&tag.bits().to_le_bytes());
                payload.extend_from_slice(&through.to_le_bytes());
            }
            Self::DeletedUser {
                tenant,
                user,
                through,
            } => {
                key.extend_from_slice(user.as_bytes());
                payload.extend_from_slice(&through.to_le_bytes());
                payload.push(u8::from(tenant.is_some()));
                payload.extend_from_slice(tenant.unwrap_or_default().as_bytes());
            }
            Self::OfflineUser {
                user,
                expires_unix_ms,
                channels,
            } => {
                key.extend_from_slice(&user.to_le_bytes());
                payload.extend_from_slice(&expires_unix_ms.to_le_bytes());
                for (tag, offset) in channels {
                    payload.extend_from_slice(&tag.bits().to_le_bytes());
                    payload.extend_from_slice(&offset.unwrap_or(SUBSCRIBED).to_le_bytes());
                }
            }
            Self::Lost { through } => payload.extend_from_slice(&through.to_le_bytes()),
            Self::End | Self::Mark => {}
            Self::PersistentUser {
                user,
                expires_unix_ms,
                channels,
            } => {
                key.extend_from_slice(user.user.as_bytes());
                payload.extend_from_slice(&expires_unix_ms.to_le_bytes());
                push_text(&mut payload, user.dialect.name());
                payload.push(u8::from(user.tenant.is_some()));
                push_text(&mut payload, user.tenant.as_deref().unwrap_or_default());
                for channel in channels {
                    push_text(&mut payload, channel);
                }
            }
            Self::Retained {
                channel,
                key: name,
                value,
            } => {
                push_text(&mut key, channel);
                push_text(&mut key, name);
                payload.push(u8::from(value.is_some()));
                payload.extend_from_slice(value.unwrap_or_default().as_bytes());
            }
        }
        let payload = content.unwrap_or(&payload);
        match completion {
            Some(completion) => appender.append_with(self.kind(), &key, payload, completion),
            None => appender.append(self.kind(), &key, payload),
        }
    }
}
