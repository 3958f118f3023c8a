//! What the records of the ring between the shards say, for people who look at it from outside.

use super::record::{self, Form, Fragment, Record};
use crate::base::channel_names::split_tenant;
use crate::base::interest::variants_of;
use crate::base::{FrameEncoding, Variant};
use crate::broker::{BroadcastTarget, TenantScope};
use std::borrow::Cow;
use std::collections::HashMap;

/// Publications of which pieces are kept until the last one is there. A writer has one at a time.
const UNFINISHED_MAX: usize = 256;

/// A publication in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped<'a> {
    /// The channel, as clients know it.
    pub channel: &'a str,
    /// The tenant whose channel it is, or whose sessions receive it.
    pub tenant: Option<&'a str>,
    /// Whether it is for the sessions of all tenants.
    pub is_for_all_tenants: bool,
    /// The type of the message.
    pub kind: &'a str,
    /// What was published.
    pub data: TappedData<'a>,
    /// For which of the subscribers it is: what they must be or have, and its name.
    pub target: Option<(&'static str, &'a str)>,
    /// When it was published, unix milliseconds.
    pub unix_ms: u64,
    /// In which forms it was encoded: a dialect, and whether it is compressed.
    pub variants: Vec<(&'static str, bool)>,
}

/// The data of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TappedData<'a> {
    /// A JSON value.
    Json(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

/// Reads records one after the other, and joins the pieces of long publications.
#[derive(Debug, Default)]
pub struct Tap {
    unfinished: HashMap<u64, Vec<u8>>,
}

impl Tap {
    /// The publication that ends with this record: all of its bytes. Nothing while pieces are missing, or if
    /// the first ones were missed.
    pub fn whole<'a>(&mut self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let form = record::form(bytes)?;
        if form == Form::Whole {
            return Some(Cow::Borrowed(bytes));
        }
        let Fragment { id, offset, piece } = record::fragment(bytes)?;
        if form == Form::First {
            if self.unfinished.len() >= UNFINISHED_MAX {
                // Those of which the end was missed.
                self.unfinished.clear();
            }
            self.unfinished.insert(id, Vec::new());
        }
        let whole = self.unfinished.get_mut(&id)?;
        if whole.len() != offset {
            self.unfinished.remove(&id);
            return None;
        }
        whole.extend_from_slice(piece);
        if form != Form::Last {
            return None;
        }
        self.unfinished.remove(&id).map(Cow::Owned)
    }

    /// Records were missed: what is unfinished has no end.
    pub fn miss(&mut self) {
        self.unfinished.clear();
    }
}

impl<'a> Tapped<'a> {
    /// What a whole publication says; nothing if it is none.
    #[must_use]
    pub fn read(whole: &'a [u8]) -> Option<Self> {
        let record = Record::read(whole)?;
        let publication = record.publication()?;
        let (of_channel, channel) = split_tenant(str::from_utf8(record.channel).ok()?);
        let reach = record.reach()?;
        let tenant = match reach {
            TenantScope::Of(tenant) => Some(tenant),
            TenantScope::Without | TenantScope::All => of_channel,
        };
        Some(Self {
            channel,
            tenant,
            is_for_all_tenants: reach == TenantScope::All,
            kind: publication.kind,
            data: match record.data() {
                Some(json) => TappedData::Json(json),
                None => TappedData::Binary(publication.data.bytes()),
            },
            target: match publication.target {
                BroadcastTarget::All => None,
                BroadcastTarget::User(name) => Some(("user", name)),
                BroadcastTarget::Role(name) => Some(("role", name)),
                BroadcastTarget::Permission(name) => Some(("permission", name)),
                BroadcastTarget::Tenant(name) => Some(("tenant", name)),
                BroadcastTarget::Except(id) => Some(("except_session", id)),
            },
            unix_ms: record.meta.unix_ms,
            variants: variants_of(record.variants()).map(named).collect(),
        })
    }
}

fn named(variant: Variant) -> (&'static str, bool) {
    let is_plain = variant == variant.encoded(FrameEncoding::Plain);
    (variant.dialect().name(), !is_plain)
}
