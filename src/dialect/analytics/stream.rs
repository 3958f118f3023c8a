//! The six streams.

/// What stands before a stream's name in its channel.
pub(super) const CHANNEL_PREFIX: &str = "stream:";

/// Each stream's name, and the field that holds one of its items.
const STREAMS: [(&str, &str); 6] = [
    ("events", "event"),
    ("metrics", "metrics"),
    ("alerts", "alert"),
    ("predictions", "prediction"),
    ("aggregations", "aggregation"),
    ("system_status", "system_status"),
];

/// A stream's name, and the field that holds one of its items.
pub(super) fn named(name: &str) -> Option<(&'static str, &'static str)> {
    STREAMS.into_iter().find(|(stream, _)| *stream == name)
}

/// The stream of a channel.
pub(super) fn of_channel(channel: &str) -> Option<(&'static str, &'static str)> {
    named(channel.strip_prefix(CHANNEL_PREFIX)?)
}
