//! `fanwire subscribe`: what is published on channels, as a client of the gateway dialect sees it.

use super::table::clean;
use super::{CommandError, print};
use async_tungstenite::tokio::connect_async;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::http::HeaderValue;
use clap::Args;
use futures_lite::StreamExt;
use serde_json::json;

/// Print what is published on channels, one message per line, until it is interrupted.
#[derive(Args)]
pub(crate) struct Subscribe {
    /// The channels.
    #[arg(required = true)]
    channels: Vec<String>,
    /// The gateway dialect of the server.
    #[arg(
        long,
        env = "FANWIRE_URL",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8765/ws"
    )]
    url: String,
    /// A token; none is needed for a development server. Other users of the host can read command lines:
    /// prefer the variable.
    #[arg(long, env = "FANWIRE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Subscribe {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let failed =
            |error: &dyn std::fmt::Display| CommandError::Server(format!("{}: {error}", self.url));
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .map_err(|it| failed(&it))?;
        if let Some(token) = &self.token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
            let bearer = bearer.map_err(|it| failed(&it))?;
            request.headers_mut().insert("Authorization", bearer);
        }
        let (mut stream, _) = connect_async(request).await.map_err(|it| failed(&it))?;
        for channel in &self.channels {
            let subscribe = json!({"type": "subscribe", "data": {"channel": channel}});
            let text = Message::text(subscribe.to_string());
            stream.send(text).await.map_err(|it| failed(&it))?;
        }
        let mut received = 0;
        while let Some(message) = stream.next().await {
            let text = match message.map_err(|it| failed(&it))? {
                Message::Text(text) => text,
                Message::Close(Some(close)) => {
                    let code = u16::from(close.code);
                    return Err(failed(&format!("closed: {code} {}", clean(&close.reason))));
                }
                _ => continue,
            };
            let message: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            // What the server itself says to the client has its channel in `data`, if any.
            if !message["channel"].is_string() {
                match message["type"] == "error" {
                    true => return Err(failed(&clean(&text))),
                    false => continue,
                }
            }
            print(&format!("{}\n", clean(&text)))?;
            received += 1;
            if self.count.is_some_and(|count| received >= count) {
                break;
            }
        }
        Ok(())
    }
}
