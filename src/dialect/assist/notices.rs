//! Notices that the server itself publishes in rooms: their types and their data.

use crate::broker::Retain;
use serde_json::{Value, json};

/// A user joined or left a room.
pub(crate) const ROOM_EVENT: &str = "room_event";
/// Activity of a user, such as connecting.
pub(crate) const USER_ACTIVITY: &str = "user_activity";
/// An alert for people.
pub(crate) const SYSTEM_ALERT: &str = "system_alert";
/// A document is being processed.
pub(crate) const DOCUMENT_START: &str = "document_processing_start";
/// A document was processed.
pub(crate) const DOCUMENT_COMPLETE: &str = "document_processing_complete";
/// A job has a new status.
pub(crate) const JOB_UPDATES: &str = "job_updates";
/// Load of the host.
pub(crate) const SYSTEM_METRICS: &str = "system_metrics";

/// Types whose fields stand beside `type`; the fields of all others stand in `data`.
pub(super) const FLAT: [&str; 5] = [
    ROOM_EVENT,
    USER_ACTIVITY,
    SYSTEM_ALERT,
    DOCUMENT_START,
    DOCUMENT_COMPLETE,
];

/// `details` is JSON, as the client wrote it.
pub(super) fn alert_json(kind: &str, severity: &str, text: &str, details: &str) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    format!(
        "{{\"alert_type\":{},\"severity\":{},\"message\":{},\"details\":{details}}}",
        quoted(kind),
        quoted(severity),
        quoted(text)
    )
}

/// The data of an alert.
pub(crate) fn alert(kind: &str, severity: &str, text: &str, details: &Value) -> String {
    alert_json(kind, severity, text, &details.to_string())
}

/// The data of a job's update.
pub(crate) fn job(id: &str, status: &str, progress: f64) -> String {
    json!({"job_id": id, "status": status, "progress": progress}).to_string()
}

/// What the data of a job's update does to the retained jobs: a job is active until its status is
/// final. `key` holds its id.
pub(super) fn retain_job<'a>(data: &str, key: &'a mut String) -> Retain<'a> {
    #[derive(serde::Deserialize)]
    struct Job {
        job_id: Value,
        status: String,
    }
    let Ok(Job { job_id, status }) = serde_json::from_str(data) else {
        return Retain::None;
    };
    *key = match job_id {
        Value::String(id) => id,
        Value::Number(id) => id.to_string(),
        _ => return Retain::None,
    };
    if is_final(&status) {
        Retain::Clear(key)
    } else {
        Retain::Value(key)
    }
}

/// Whether this status of a job is final.
fn is_final(status: &str) -> bool {
    [
        "completed",
        "complete",
        "done",
        "failed",
        "cancelled",
        "canceled",
    ]
    .iter()
    .any(|last| status.eq_ignore_ascii_case(last))
}

/// The data of a notice that the processing of a document has begun or, with `success`, has ended.
pub(crate) fn document(user: &str, id: &str, filename: &str, success: Option<bool>) -> String {
    let mut data = json!({"user_id": user, "document_id": id, "filename": filename});
    if let Some(success) = success {
        data["success"] = success.into();
    }
    data.to_string()
}

pub(super) fn room_event(event: &str, room: &str, user: Option<&str>) -> String {
    json!({"event": event, "room": room, "user_id": user}).to_string()
}

pub(crate) fn user_activity(event: &str, user: Option<&str>) -> String {
    json!({"event": event, "user_id": user}).to_string()
}
