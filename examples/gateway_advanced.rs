//! A gateway with credentials of its own, middleware, hooks, and broadcasts to roles and tenants.
//!
//! ```sh
//! export FANWIRE_JWT_SECRET=$(openssl rand -hex 32)
//! cargo run --example gateway_advanced
//! npx wscat -c ws://127.0.0.1:8765/ws -x '{"type":"custom_auth","data":{"token":"opensesame"}}' -w 3
//! ```

mod support;

use fanwire::{Denied, DialectId, Identity, Server};
use serde::Deserialize;
use serde_json::json;
use std::error::Error;
use std::time::Duration;

#[derive(Deserialize)]
struct Credentials {
    token: String,
}

/// Longest message that the middleware lets through, bytes.
const MESSAGE_BYTES_MAX: usize = 4_096;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Gateway)
        .listen(support::address("127.0.0.1:8765")?)
        .from_env()
        .on_connect(|session| {
            println!("{} comes from {}", session.id(), session.peer());
            Ok(())
        })
        .on_disconnect(|session| println!("{} is gone", session.id()))
        .middleware(|session, message| {
            println!("{} says {}", session.id(), message.kind);
            if message.data.len() > MESSAGE_BYTES_MAX {
                return Err(Denied::because("Message too long"));
            }
            Ok(())
        })
        .on_message_before_authentication("custom_auth", |session, message| {
            let credentials: Credentials = message.parse()?;
            if credentials.token != "opensesame" {
                return session.send("auth_failed", &json!({"error": "Invalid token"}));
            }
            let identity = Identity::new("user_123").with_tenant("tenant_456");
            session.identify(identity.with_role("admin").with_permission("read"));
            session.subscribe("notifications");
            session.send("auth_success", &json!({"user_id": "user_123"}))
        })
        .start()?;
    support::announce(&server, "/ws");

    // For the sessions of this tenant; the server itself means those without one.
    let news = server.in_tenant("tenant_456");
    std::thread::spawn(move || -> Result<(), fanwire::PublishError> {
        loop {
            let message = json!({"message": "System maintenance in 5 minutes"});
            news.broadcast("notifications", "notification", &message)?;
            news.broadcast_to_role("admin", "admin_alert", &json!({"message": "High priority"}))?;
            news.broadcast_to_tenant("tenant_456", "tenant_news", &json!({"message": "New"}))?;
            news.broadcast_to_permission("read", "reading", &json!({"pages": 3}))?;
            news.broadcast_to_user("user_123", "greeting", &json!({"message": "Hello"}))?;
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    server.run_until_signal()?;
    Ok(())
}
