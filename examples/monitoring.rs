//! Property monitoring: a poller publishes, an operator looks at connections.
//!
//! ```sh
//! cargo run --example monitoring
//! fanwire token --user ann --jwt-secret "the secret of the examples, known to everyone"
//! ```

mod support;

use fanwire::{DialectId, Server};
use serde_json::json;
use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of the tokens; yours is yours alone.
const SECRET: &str = "the secret of the examples, known to everyone";

/// Stands for the client of a city's open data.
fn fetch_violations(turn: u32) -> Vec<&'static str> {
    ["DOB", "ECB", "HPD"][..(turn as usize % 3) + 1].to_vec()
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Monitoring)
        .listen(support::address("127.0.0.1:8765")?)
        .jwt_secret(SECRET)
        .on_disconnect(|session| println!("{} is gone", session.id()))
        .start()?;
    support::announce(&server, "/");

    // The document's program asks every five minutes.
    let poller = server.clone();
    std::thread::spawn(move || {
        for turn in 0.. {
            let violations = fetch_violations(turn);
            let update = json!({
                "type": "VIOLATION_UPDATE",
                "property_id": "1012650001",
                "count": violations.len(),
                "timestamp": unix_seconds(),
            });
            if let Err(error) = poller.broadcast_property("1012650001", &update) {
                eprintln!("not published: {error}");
            }
            let stats = poller.stats();
            println!(
                "{} connections, {} authenticated, {} properties",
                stats.active_connections, stats.authenticated_connections, stats.unique_properties
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    server.run_until_signal()?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own may read the clock"
)]
fn unix_seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
