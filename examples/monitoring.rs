//! Property monitoring: a poller publishes, an operator looks at connections and ends one.
//!
//! ```sh
//! export FANWIRE_JWT_SECRET=$(openssl rand -hex 32)
//! cargo run --example monitoring
//! fanwire token --user ann     # in another shell with the same secret
//! ```

mod support;

use fanwire::{DialectId, Server, block_on};
use serde_json::json;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Stands for the client of a city's open data.
fn fetch_violations(turn: u32) -> Vec<&'static str> {
    ["DOB", "ECB", "HPD"][..(turn as usize % 3) + 1].to_vec()
}

fn main() -> Result<(), Box<dyn Error>> {
    let newest = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&newest);
    let server = Server::builder()
        .profile(DialectId::Monitoring)
        .listen(support::address("127.0.0.1:8765")?)
        .from_env()
        .on_connect(move |session| {
            *seen.lock().expect("nobody panics with the lock") = Some(session.id());
            Ok(())
        })
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
            let stats = block_on(poller.stats());
            println!(
                "{} connections, {} authenticated, {} properties",
                stats.active_connections, stats.authenticated_connections, stats.unique_properties
            );
            let newest = *newest.lock().expect("nobody panics with the lock");
            if let Some(id) = newest {
                look_at(&poller, &id.to_string());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    server.run_until_signal()?;
    Ok(())
}

/// What an operator may want to know, and to end: here whoever sent half of what it may.
fn look_at(server: &Server, id: &str) {
    let Some(info) = block_on(server.connection_info(id)) else {
        return;
    };
    let rate_max = info.rate_max.unwrap_or(u32::MAX);
    println!(
        "newest: {} of {:?}, {} properties, {}/{rate_max} messages",
        info.connection_id,
        info.user_id,
        info.channels.len(),
        info.rate_used
    );
    if info.rate_used > rate_max / 2 {
        println!("ended: {}", block_on(server.disconnect(id)));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own may read the clock"
)]
fn unix_seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
