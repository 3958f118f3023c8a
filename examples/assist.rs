//! An assistant's live features: documents, jobs, alerts, rooms.
//!
//! ```sh
//! export FANWIRE_JWT_SECRET=$(openssl rand -hex 32)
//! cargo run --example assist
//! ```

mod support;

use fanwire::{DialectId, Server};
use serde_json::json;
use std::error::Error;
use std::time::Duration;

fn work(server: &Server) -> Result<(), fanwire::PublishError> {
    for turn in 0_u32.. {
        let document = format!("doc{turn}");
        server.notify_document_processing_start("user123", &document, "report.pdf")?;
        for progress in [0.0, 45.5, 90.0] {
            server.notify_job_status_change("job789", "running", progress)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        server.notify_job_status_change("job789", "completed", 100.0)?;
        server.notify_document_processing_complete("user123", &document, "report.pdf", true)?;
        let details = json!({"usage": 92.5});
        server.notify_system_alert("disk_space", "critical", "Disk usage above 90%", &details)?;
        let hello = json!({"type": "custom_event", "data": {"message": "Hello room!"}});
        server.send_to_room("chat_room_123", &hello)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Assist)
        .listen(support::address("127.0.0.1:8000")?)
        .from_env()
        .start()?;
    support::announce(&server, "/ws/connect");
    let worker = server.clone();
    std::thread::spawn(move || work(&worker));
    server.run_until_signal()?;
    Ok(())
}
