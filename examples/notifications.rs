//! Notifications to everyone: by the program, and over HTTP.
//!
//! ```sh
//! cargo run --example notifications
//! curl -X POST http://127.0.0.1:8000/notify -H 'Content-Type: application/json' \
//!   -d '{"message": "Hello, WebSocket clients!", "type": "alert", "data": {"priority": "high"}}'
//! ```

mod support;

use fanwire::{DialectId, Server};
use serde_json::json;
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Notifications)
        .listen(support::address("127.0.0.1:8000")?)
        .start()?;
    support::announce(&server, "/ws");
    let notifier = server.clone();
    std::thread::spawn(move || -> Result<(), fanwire::PublishError> {
        for number in 1_u32.. {
            let message = format!("Hello for the {number}. time");
            notifier.notify("greeting", &message, &json!({"number": number}))?;
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    });
    server.run_until_signal()?;
    Ok(())
}
