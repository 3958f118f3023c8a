//! The channels that clients have subscribed to, in pages.

use super::shards::{Shards, WhileStalled};
use crate::base::channel_names::split_tenant;
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which channels are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelSearch {
    /// How their names begin.
    pub(super) prefix: Option<String>,
    /// Whose they are.
    pub(super) tenant: Option<String>,
    /// The full name that they follow; empty = all.
    pub(super) after: String,
}

impl ChannelSearch {
    fn is_wanted(&self, full_name: &str) -> bool {
        let (tenant, name) = split_tenant(full_name);
        let wanted = self.tenant.as_deref();
        let prefix = self.prefix.as_deref();
        full_name > &*self.after
            && wanted.is_none_or(|wanted| tenant == Some(wanted))
            && prefix.is_none_or(|prefix| name.starts_with(prefix))
    }
}

/// Channels and the counts of their subscribers, by full names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChannelPage {
    pub(super) channels: BTreeMap<String, usize>,
    /// Whether others follow.
    pub(super) has_more: bool,
    /// False while a shard is stalled: then its subscribers are missing.
    pub(super) is_complete: bool,
}

impl ChannelPage {
    fn add(&mut self, name: String, count: usize, limit: usize) {
        *self.channels.entry(name).or_default() += count;
        if self.channels.len() > limit {
            self.channels.pop_last();
            self.has_more = true;
        }
    }

    /// The page of all nodes, of those of each. Of channels behind the end of a page that is not the last one,
    /// not all counts are known.
    pub(super) fn merge(pages: Vec<Self>, limit: usize) -> Self {
        let ends = pages.iter().filter(|page| page.has_more);
        let end = ends.filter_map(|page| page.channels.last_key_value());
        let end = end.map(|(name, _)| name.clone()).min();
        let mut all = Self {
            is_complete: pages.iter().all(|page| page.is_complete),
            has_more: end.is_some(),
            ..Self::default()
        };
        let is_known = |name: &String| end.as_ref().is_none_or(|end| name <= end);
        let channels = pages.into_iter().flat_map(|page| page.channels);
        for (name, count) in channels.filter(|(name, _)| is_known(name)) {
            all.add(name, count, limit);
        }
        all
    }
}

impl Shards {
    /// The first `limit` channels of this node.
    pub(super) async fn channel_page(
        &self,
        stalled: WhileStalled,
        search: &ChannelSearch,
        limit: usize,
    ) -> ChannelPage {
        let mut page = ChannelPage {
            is_complete: true,
            ..ChannelPage::default()
        };
        for shard in 0..self.count() {
            let mut next = Some(0);
            while let Some(from) = next {
                let search = search.clone();
                let call = move |shard: &mut Shard, _| {
                    let is_wanted = |name: &str| search.is_wanted(name);
                    shard.broker().channels_from(from, is_wanted)
                };
                let Some(part) = self.call(shard, stalled, call).await else {
                    page.is_complete = false;
                    break;
                };
                for (name, count) in part.items {
                    page.add(name, count, limit);
                }
                next = part.next;
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(channels: &[(&str, usize)], has_more: bool) -> ChannelPage {
        ChannelPage {
            channels: channels
                .iter()
                .map(|(name, count)| ((*name).into(), *count))
                .collect(),
            has_more,
            is_complete: true,
        }
    }

    #[test]
    fn counts_are_added_up_to_where_all_are_known() {
        let merge = |pages: &[ChannelPage], limit| ChannelPage::merge(pages.to_vec(), limit);
        let a = page(&[("a", 1), ("c", 2)], true);
        let b = page(&[("a", 3), ("b", 1)], false);
        assert_eq!(
            merge(&[a.clone(), b.clone()], 2),
            page(&[("a", 4), ("b", 1)], true)
        );
        assert_eq!(
            merge(&[a.clone(), b], 3),
            page(&[("a", 4), ("b", 1), ("c", 2)], true)
        );
        // The second one may have more on "c".
        let b = page(&[("a", 3), ("b", 1)], true);
        assert_eq!(merge(&[a, b], 3), page(&[("a", 4), ("b", 1)], true));
        let empty = page(&[], false);
        assert_eq!(merge(&[empty.clone(), empty.clone()], 3), empty);
    }
}
