//! fanwire beside an axum application, in one process: requests of the application publish, and ask
//! who is connected. The shards run on cores of their own; the application awaits what they do.
//!
//! ```sh
//! export FANWIRE_JWT_SECRET=$(openssl rand -hex 32)
//! cargo run --example with_axum      # prints both addresses
//! curl -X POST -H 'Content-Type: application/json' -d '{"state":"sent"}' http://127.0.0.1:8080/orders/7
//! curl http://127.0.0.1:8080/users/ann
//! ```

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use fanwire::{DialectId, Publication, Server, SessionSearch};
use serde_json::{Value, json};
use std::error::Error;
use std::net::{AddrParseError, SocketAddr};
use tokio::net::TcpListener;

/// Tells the subscribers of an order its new state.
async fn order_changed(
    State(server): State<Server>,
    Path(order): Path<u64>,
    Json(state): Json<Value>,
) -> Result<StatusCode, (StatusCode, String)> {
    let channel = format!("orders:{order}");
    let changed = Publication::new(&channel, "order_changed", &state);
    let failed =
        |error: fanwire::PublishError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    server
        .publish(&changed.map_err(failed)?)
        .await
        .map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows from where a user is connected.
async fn sessions_of(State(server): State<Server>, Path(user): Path<String>) -> Json<Value> {
    let search = SessionSearch {
        user: Some(user),
        ..SessionSearch::default()
    };
    let page = server.connections(&search, None, 100).await;
    let addresses: Vec<_> = page
        .connections
        .into_iter()
        .map(|info| info.address)
        .collect();
    Json(json!({ "addresses": addresses }))
}

/// Where to listen: an argument, or `default`.
fn address(argument: usize, default: &str) -> Result<SocketAddr, AddrParseError> {
    let given = std::env::args().nth(argument);
    given.as_deref().unwrap_or(default).parse()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let builder = Server::builder()
        .profile(DialectId::Gateway)
        .listen(address(1, "127.0.0.1:8765")?)
        .from_env();
    // The start waits until the shards accept connections.
    let server = tokio::task::spawn_blocking(|| builder.start()).await??;
    let application = Router::new()
        .route("/orders/{order}", post(order_changed))
        .route("/users/{user}", get(sessions_of))
        .with_state(server.clone());
    let listener = TcpListener::bind(address(2, "127.0.0.1:8080")?).await?;
    let http = listener.local_addr()?;
    println!("ws://{}/ws http://{http}", server.addresses()[0]);
    let interrupted = async {
        // An error means that nobody can interrupt it; then it ends at once.
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, application)
        .with_graceful_shutdown(interrupted)
        .await?;
    println!("{:?}", server.stop().await);
    Ok(())
}
