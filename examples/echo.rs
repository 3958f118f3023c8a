//! A server that sends back what it receives, text as text and binary as binary, and nothing else.
//!
//! ```sh
//! cargo run --example echo                            # ws://127.0.0.1:9001/ws
//! cargo run --example echo -- 127.0.0.1:9001 --tls    # wss, with a certificate of its own
//! npx wscat -c ws://127.0.0.1:9001/ws -x hello -w 1
//! ```
//!
//! A client that does not read is not read from either, so that nothing piles up here.

mod support;

use fanwire::{DialectId, Next, Server};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder()
        // Of the dialects, this one greets nobody.
        .profile(DialectId::Gateway)
        .listen(support::address("127.0.0.1:9001")?)
        // On loopback, without tokens and rate limits.
        .dev()
        .set("tls", std::env::args().any(|argument| argument == "--tls"))
        .set("compression", "deflate")
        // A client that is silent is not asked whether it is there.
        .set("gateway.ping_interval", "0s")
        .set("gateway.message_bytes_max", "16 MiB")
        .on_text(|session, text| {
            session.send_text(text);
            Ok(Next::Done)
        })
        .on_binary(|session, bytes| {
            session.send_binary(bytes);
            Ok(Next::Done)
        })
        .start()?;
    support::announce(&server, "/ws");
    server.run_until_signal()?;
    Ok(())
}
