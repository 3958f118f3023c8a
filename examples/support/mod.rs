//! What the examples have in common.

use fanwire::Server;
use std::error::Error;
use std::net::SocketAddr;

/// Where to listen: the first argument, or `default`.
pub(crate) fn address(default: &str) -> Result<SocketAddr, Box<dyn Error>> {
    let given = std::env::args().nth(1);
    Ok(given.as_deref().unwrap_or(default).parse()?)
}

/// Tells where the server listens.
pub(crate) fn announce(server: &Server, path: &str) {
    let endpoints = server.endpoints();
    let scheme = endpoints[0].0.split("://").next().unwrap_or_default();
    println!("{scheme}://{}{path}", server.addresses()[0]);
}
