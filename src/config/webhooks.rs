//! Settings of webhooks, which are told what has changed, and of callbacks, which decide and answer.

use super::declaration::settings;
use super::secret::{MASK, Secret};
use super::tokens::{URL_RULE, is_safe_url};
use super::value::{Millis, SettingType, SettingValue};
use crate::base::label::Label;
use crate::base::{ChannelSet, StateChangesConfig, WebhookEvent};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::borrow::Cow;

/// What a secret of webhooks begins with, as in the specification Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";

settings! {
    /// Settings of webhooks and callbacks.
    pub struct WebhookSettings {
        /// Secrets with which requests to webhooks and callbacks are signed, each `whsec_` and 24 to 64
        /// bytes in base64. Each signs every request: for changing a secret.
        webhook_secrets: Vec<Secret> = Vec::new(), is_secret = true,
            rule = Some((
                |secrets| secrets.iter().all(|secret| webhook_key(secret).is_some()),
                "each `whsec_` and 24 to 64 bytes in base64, such as the output of \
                 `echo whsec_$(openssl rand -base64 32)`",
            ));
        /// Address that is told which users are online and which channels are occupied.
        webhook_url: Option<String> = None, is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_safe_url), URL_RULE));
        /// What it is told: `user_online`, `user_offline`, `channel_occupied`, `channel_vacated`.
        webhook_events: Vec<WebhookEvent> = WebhookEvent::ALL.to_vec();
        /// The channels of which it is told.
        webhook_channels: ChannelSet = ChannelSet::all();
        /// How long a change must last before the webhook is told of it.
        webhook_delay: Millis = Millis(1_000),
            rule = Some((|time| time.0 <= 60_000, "at most 1m"));
        /// Time for an answer of the webhook.
        webhook_timeout: Millis = Millis(5_000),
            rule = Some((|time| (1..=60_000).contains(&time.0), "1ms to 1m"));
        /// Time for which events are sent again that the webhook does not accept; then they are lost.
        webhook_retry_time: Millis = Millis(600_000);
        /// Changes that may wait for the webhook. With more, it is not told of users and channels that are
        /// new.
        webhook_queue_max: u64 = 100_000,
            rule = Some((|count| *count > 0, "1 or more"));
        /// Address that is asked whether a session may begin.
        connect_callback_url: Option<String> = None, is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_safe_url), URL_RULE));
        /// Address that is asked whether a client may subscribe to a channel that the access rules allow.
        subscribe_callback_url: Option<String> = None, is_secret = true,
            rule = Some((|url| url.as_deref().is_none_or(is_safe_url), URL_RULE));
        /// The channels about which it is asked; the others are decided by the access rules alone.
        subscribe_callback_channels: ChannelSet = ChannelSet::all();
        /// Types of messages that a dialect does not have, each with the address that answers them:
        /// `TYPE URL`.
        message_callbacks: Vec<MessageCallback> = Vec::new(), is_secret = true;
        /// Time for an answer of these callbacks, waiting for other questions included.
        callback_timeout: Millis = Millis(3_000),
            rule = Some((|time| (1..=60_000).contains(&time.0), "1ms to 1m"));
        /// Questions to each of these callbacks at a time; more wait.
        callback_requests_max: u32 = 64,
            rule = Some((|count| *count > 0, "1 or more"));
    }
}

impl WebhookSettings {
    /// What is noted for the webhook, if there is one.
    #[must_use]
    pub fn changes(&self) -> Option<StateChangesConfig> {
        use WebhookEvent::{ChannelOccupied, ChannelVacated, UserOffline, UserOnline};
        self.webhook_url.as_ref()?;
        let has_any = |of: [WebhookEvent; 2]| of.iter().any(|it| self.webhook_events.contains(it));
        let has_channels = has_any([ChannelOccupied, ChannelVacated]);
        Some(StateChangesConfig {
            has_users: has_any([UserOnline, UserOffline]),
            channels: has_channels.then(|| self.webhook_channels.clone()),
            queue_max: usize::try_from(self.webhook_queue_max).unwrap_or(usize::MAX),
        })
    }

    /// Whether there are callbacks, beside the one about tokens.
    #[must_use]
    pub fn has_callbacks(&self) -> bool {
        self.connect_callback_url.is_some()
            || self.subscribe_callback_url.is_some()
            || !self.message_callbacks.is_empty()
    }
}

/// A type of messages that a backend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageCallback {
    /// The type.
    pub kind: String,
    /// The address of the backend.
    pub url: String,
}

impl SettingType for Vec<MessageCallback> {
    fn rule() -> Cow<'static, str> {
        format!("a list of strings \"TYPE URL\", each type once, and each URL {URL_RULE}").into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let mut callbacks = Self::new();
        for text in &texts {
            let (kind, url) = text.trim().split_once(char::is_whitespace)?;
            let url = url.trim_start();
            let is_known = callbacks.iter().any(|it| it.kind == kind);
            if is_known || !is_safe_url(url) {
                return None;
            }
            let (kind, url) = (kind.to_owned(), url.to_owned());
            callbacks.push(MessageCallback { kind, url });
        }
        Some(callbacks)
    }

    fn show(&self) -> Option<String> {
        // An address may have a secret in its query.
        let shown = self.iter().map(|it| format!("{} {MASK}", it.kind));
        shown.collect::<Vec<_>>().show()
    }
}

impl SettingType for Vec<WebhookEvent> {
    fn rule() -> Cow<'static, str> {
        let names: Vec<_> = WebhookEvent::ALL.iter().map(|it| it.name()).collect();
        format!("a list of {}", names.join(", ")).into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| WebhookEvent::named(text)).collect()
    }

    fn show(&self) -> Option<String> {
        let names = self.iter().map(|event| event.name().to_owned());
        names.collect::<Vec<_>>().show()
    }
}

/// Each is a name, or what names begin with and `*`.
impl SettingType for ChannelSet {
    fn rule() -> Cow<'static, str> {
        "a list of channels; `*` at the end of one stands for any rest".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        Self::of(&Vec::<String>::parse(value)?)
    }

    fn show(&self) -> Option<String> {
        self.patterns().show()
    }
}

/// The key of a secret; `None` if it has not the right form.
#[must_use]
pub fn webhook_key(secret: &Secret) -> Option<Vec<u8>> {
    let key = BASE64.decode(secret.0.strip_prefix(SECRET_PREFIX)?).ok()?;
    (24..=64).contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_24_to_64_bytes_in_base64() {
        for (bytes, expected) in [(23, false), (24, true), (64, true), (65, false)] {
            let text = format!("whsec_{}", BASE64.encode(vec![7; bytes]));
            let key = webhook_key(&Secret(text.clone()));
            assert_eq!(key, expected.then(|| vec![7; bytes]), "{bytes}");
            assert_eq!(webhook_key(&Secret(text[6..].to_owned())), None);
        }
        assert_eq!(webhook_key(&Secret("whsec_not base64".to_owned())), None);
    }

    #[test]
    fn a_message_callback_is_a_type_and_an_address() {
        let read = |text: &str| Vec::<MessageCallback>::parse(&SettingValue::from(text));
        let callbacks =
            read("price https://a.example/p?key=k,  find  http://127.0.0.1:1/").unwrap();
        assert_eq!(callbacks[0].url, "https://a.example/p?key=k");
        assert_eq!(callbacks[1].kind, "find");
        assert_eq!(
            callbacks.show().as_deref(),
            Some(r#"["price (secret)", "find (secret)"]"#)
        );
        for text in [
            "price",
            "https://a.example/",
            "price http://a.example/",
            "price https://user:password@a.example/",
            "price https://a.example/, price https://b.example/",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
