//! Publications of the legacy servers, each in one call.

use super::handle::Server;
use crate::base::DialectId;
use crate::base::channel_names::{EVERYONE, ROOM, dialect_channel};
use crate::broker::Publication;
use crate::dialect::analytics::Stream;
use crate::dialect::assist::{notices, rooms};
use crate::dialect::monitoring;
use crate::dialect::notifications::notification;
use crate::shard::PublishError;
use serde::Serialize;

impl Server {
    /// Publishes to the subscribers of a property; `message` passes to clients of the monitoring
    /// dialect unchanged if it is an object with a `type`.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let update = serde_json::json!({"type": "VIOLATION_UPDATE", "count": 5});
    /// server.broadcast_property("1012650001", &update)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_property(
        &self,
        property_id: &str,
        message: &impl Serialize,
    ) -> Result<(), PublishError> {
        let message = serde_json::to_value(message).map_err(PublishError::Data)?;
        let channel = monitoring::property_channel(property_id);
        self.broadcast(&channel, monitoring::update_kind(&message), &message)
    }

    /// Publishes an item of a stream to the analytics subscribers whose filters match it.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let event = serde_json::json!({"event_type": "click"});
    /// server.broadcast_stream(fanwire::Stream::Events, &event)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_stream(
        &self,
        stream: Stream,
        item: &impl Serialize,
    ) -> Result<(), PublishError> {
        self.broadcast(&stream.channel(), Stream::KIND, item)
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_event(&serde_json::json!({"event_type": "click"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_event(&self, event: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::Events, event)
    }

    /// Publishes metrics.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_metrics(&serde_json::json!({"requests": 7}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_metrics(&self, metrics: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::Metrics, metrics)
    }

    /// Publishes an alert.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_alert(&serde_json::json!({"severity": "high"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_alert(&self, alert: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::Alerts, alert)
    }

    /// Publishes a prediction.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_prediction(&serde_json::json!({"score": 0.9}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_prediction(&self, prediction: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::Predictions, prediction)
    }

    /// Publishes an aggregation.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_aggregation(&serde_json::json!({"sum": 12}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_aggregation(&self, aggregation: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::Aggregations, aggregation)
    }

    /// Publishes the system's status.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.broadcast_system_status(&serde_json::json!({"status": "ok"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn broadcast_system_status(&self, status: &impl Serialize) -> Result<(), PublishError> {
        self.broadcast_stream(Stream::SystemStatus, status)
    }

    /// Publishes a message in a room; a message with a `type` passes unchanged.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.send_to_room("lobby", &serde_json::json!({"type": "chat", "text": "hello"}))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_to_room(&self, room: &str, message: &impl Serialize) -> Result<(), PublishError> {
        let channel = format!("{ROOM}{room}");
        self.broadcast(&channel, "message", message)
    }

    /// Notifies a user, and the admins who subscribed to all documents, that the processing of a
    /// document has begun.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.notify_document_processing_start("ann", "doc-1", "report.pdf")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_document_processing_start(
        &self,
        user_id: &str,
        document_id: &str,
        filename: &str,
    ) -> Result<(), PublishError> {
        let data = notices::document(user_id, document_id, filename, None);
        self.notify_of_document(user_id, notices::DOCUMENT_START, &data)
    }

    /// Notifies a user, and the admins who subscribed to all documents, that the processing of a
    /// document has ended.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.notify_document_processing_complete("ann", "doc-1", "report.pdf", true)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_document_processing_complete(
        &self,
        user_id: &str,
        document_id: &str,
        filename: &str,
        success: bool,
    ) -> Result<(), PublishError> {
        let data = notices::document(user_id, document_id, filename, Some(success));
        self.notify_of_document(user_id, notices::DOCUMENT_COMPLETE, &data)
    }

    fn notify_of_document(
        &self,
        user_id: &str,
        kind: &str,
        data: &str,
    ) -> Result<(), PublishError> {
        let own = format!("{}{user_id}", rooms::DOCUMENT_UPDATES_PREFIX);
        self.put(&Publication::new(&own, kind, data))?;
        self.put(&Publication::new(rooms::ALL_DOCUMENT_UPDATES, kind, data))
    }

    /// Publishes a job update to its subscribers, and retains the job as active until its status is
    /// `completed`, `failed` or `cancelled`. `progress` is a percentage.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.notify_job_status_change("job-1", "running", 40.0)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_job_status_change(
        &self,
        job_id: &str,
        status: &str,
        progress: f64,
    ) -> Result<(), PublishError> {
        let data = notices::job(job_id, status, progress);
        self.put(&Publication::new(
            rooms::BACKGROUND_JOBS,
            notices::JOB_UPDATES,
            &data,
        ))
    }

    /// Sends an alert to all clients of the assist dialect.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// let details = serde_json::json!({"usage": 92.5});
    /// server.notify_system_alert("disk_space", "critical", "Disk usage above 90%", &details)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_system_alert(
        &self,
        alert_type: &str,
        severity: &str,
        message: &str,
        details: &impl Serialize,
    ) -> Result<(), PublishError> {
        let details = serde_json::to_value(details).map_err(PublishError::Data)?;
        let data = notices::alert(alert_type, severity, message, &details);
        self.put(&Publication::new(
            &dialect_channel(DialectId::Assist),
            notices::SYSTEM_ALERT,
            &data,
        ))
    }

    /// Notifies the admins of the assist dialect of a user's activity.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.notify_user_activity("ann", "uploading")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_user_activity(&self, user_id: &str, event: &str) -> Result<(), PublishError> {
        let data = notices::user_activity(event, Some(user_id));
        self.put(&Publication::new(
            rooms::ADMIN,
            notices::USER_ACTIVITY,
            &data,
        ))
    }

    /// Sends a notification to all clients of all dialects, as `POST /notify` does.
    ///
    /// # Errors
    /// As [`Server::broadcast`].
    ///
    /// ```no_run
    /// # let server = fanwire::Server::builder().dev().start()?;
    /// server.notify("notification", "Maintenance tonight", &serde_json::Value::Null)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify(
        &self,
        kind: &str,
        message: &str,
        data: &impl Serialize,
    ) -> Result<(), PublishError> {
        let data = serde_json::to_string(data).map_err(PublishError::Data)?;
        let data = notification(message, Some(&data));
        self.put(&Publication::new(EVERYONE, kind, &data))
    }
}
