//! What a client subscribes to, kept until it is known whether it may.

use crate::base::Position;
use crate::broker::{Subscription, SubscriptionIdRequest};
use crate::json::Document;

/// A [`Subscription`] that borrows nothing.
#[derive(Debug)]
pub(super) struct OwnedSubscription {
    pub(super) channel: String,
    subscription_id: OwnedIdRequest,
    filter: Option<String>,
    pub(super) recover: Option<Position>,
    is_persistent: bool,
    has_previous: bool,
    takes_binary: bool,
    /// Whether the callback about subscriptions allows it.
    pub(super) is_decided: bool,
    /// Whether it was waited for the publications of other nodes.
    pub(super) is_awaited: bool,
}

#[derive(Debug)]
enum OwnedIdRequest {
    None,
    ServerAssigned,
    ClientChosen(String),
}

impl OwnedSubscription {
    pub(super) fn of(subscription: Subscription<'_>) -> Self {
        Self {
            channel: subscription.channel.to_owned(),
            subscription_id: match subscription.subscription_id {
                SubscriptionIdRequest::None => OwnedIdRequest::None,
                SubscriptionIdRequest::ServerAssigned => OwnedIdRequest::ServerAssigned,
                SubscriptionIdRequest::ClientChosen(text) => {
                    OwnedIdRequest::ClientChosen(text.to_owned())
                }
            },
            filter: subscription.filter.map(|filter| filter.raw().to_owned()),
            recover: subscription.recover,
            is_persistent: subscription.is_persistent,
            has_previous: subscription.has_previous,
            takes_binary: subscription.takes_binary,
            is_decided: subscription.is_decided,
            is_awaited: subscription.is_awaited,
        }
    }

    /// Calls `subscribe` with the same.
    pub(super) fn with(&self, subscribe: impl FnOnce(Subscription<'_>)) {
        let document = self.filter.as_deref().map(Document::new);
        // It was read as an object before.
        let filter = document.as_ref().and_then(|it| it.object().ok());
        subscribe(Subscription {
            channel: &self.channel,
            subscription_id: match &self.subscription_id {
                OwnedIdRequest::None => SubscriptionIdRequest::None,
                OwnedIdRequest::ServerAssigned => SubscriptionIdRequest::ServerAssigned,
                OwnedIdRequest::ClientChosen(text) => SubscriptionIdRequest::ClientChosen(text),
            },
            filter,
            recover: self.recover,
            is_persistent: self.is_persistent,
            is_restored: false,
            is_decided: self.is_decided,
            is_awaited: self.is_awaited,
            has_previous: self.has_previous,
            takes_binary: self.takes_binary,
        });
    }
}
