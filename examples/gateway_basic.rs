//! A gateway with a message of its own: what comes as `echo` goes back as `echo_response`.
//!
//! ```sh
//! cargo run --example gateway_basic
//! npx wscat -c ws://127.0.0.1:8765/ws -x '{"type":"echo","data":{"n":1}}'
//! ```

mod support;

use fanwire::{DialectId, Server};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        .profile(DialectId::Gateway)
        .listen(support::address("127.0.0.1:8765")?)
        .dev()
        .on_message("echo", |session, message| {
            session.send("echo_response", &message.parse::<serde_json::Value>()?)
        })
        .start()?;
    support::announce(&server, "/ws");
    server.run_until_signal()?;
    Ok(())
}
