//! Streaming analytics: events that subscribers filter, metrics, alerts.
//!
//! ```sh
//! export FANWIRE_JWT_SECRET=$(openssl rand -hex 32)
//! cargo run --example analytics
//! ```

mod support;

use fanwire::{DialectId, Server};
use serde_json::json;
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Analytics)
        .listen(support::address("127.0.0.1:8765")?)
        .from_env()
        .start()?;
    support::announce(&server, "/");

    let source = server.clone();
    std::thread::spawn(move || -> Result<(), fanwire::PublishError> {
        for number in 0_u64.. {
            source.broadcast_event(&json!({
                "event_id": format!("evt_{number}"),
                "event_type": if number % 2 == 0 { "user_action" } else { "purchase" },
                "user_id": format!("user{}", number % 5),
                "payload": {"user_id": "user123", "amount": number},
            }))?;
            source.broadcast_metrics(&json!({"events": number}))?;
            if number % 10 == 9 {
                source.broadcast_alert(&json!({"severity": "info", "events": number}))?;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    server.run_until_signal()?;
    Ok(())
}
