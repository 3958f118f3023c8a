//! The six streams.

use crate::base::channel_names::STREAM;
use crate::base::label::{Label, label};

label! {
    /// The streams of the analytics dialect.
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_stream(fanwire::Stream::Alerts, &"disk full")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[non_exhaustive]
    Stream {
        /// Raw events.
        Events = "events",
        /// Metrics of systems and applications.
        Metrics = "metrics",
        /// Alerts.
        Alerts = "alerts",
        /// Results of models.
        Predictions = "predictions",
        /// Aggregations over windows.
        Aggregations = "aggregations",
        /// Health of the system.
        SystemStatus = "system_status",
    }
}

impl Stream {
    /// The type of a publication to a stream.
    pub(crate) const KIND: &'static str = "data";

    /// The field that holds an item of the stream.
    pub(super) const fn item_field(self) -> &'static str {
        match self {
            Self::Events => "event",
            Self::Metrics => "metrics",
            Self::Alerts => "alert",
            Self::Predictions => "prediction",
            Self::Aggregations => "aggregation",
            Self::SystemStatus => "system_status",
        }
    }

    /// The stream of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut streams = Self::ALL.iter().copied();
        streams.find(|stream| Label::name(*stream) == name)
    }

    /// The channel of the stream.
    pub(crate) fn channel(self) -> String {
        format!("{STREAM}{}", Label::name(self))
    }

    /// The stream of a channel.
    pub(super) fn of_channel(channel: &str) -> Option<Self> {
        Self::named(channel.strip_prefix(STREAM)?)
    }
}
