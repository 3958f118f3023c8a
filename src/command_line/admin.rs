//! Commands over the HTTP API of a running server.

use super::table::{clean, new_screen, table};
use super::{CommandError, print};
use clap::Args;
use fanwire::bridge::HttpClient;
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Sessions and channels in one request.
const PAGE: usize = 1_000;

/// Where the server is, and what opens it.
#[derive(Args)]
pub(crate) struct Admin {
    /// The address of the admin listener.
    #[arg(
        long,
        env = "FANWIRE_ADMIN_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8764"
    )]
    admin: Uri,
    /// A key of `api_keys`; none is needed for a development server on this host. Other users of the host
    /// can read command lines: prefer the variable.
    #[arg(
        long,
        env = "FANWIRE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    key: Option<String>,
}

/// Print the most important numbers.
#[derive(Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    admin: Admin,
    /// Print them again and again.
    #[arg(long)]
    watch: bool,
    /// Time between two prints: 500ms, 2s.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: humantime::Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Show rates, and the channels with the most subscribers, until it is interrupted.
#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    admin: Admin,
    /// Time between two screens: 500ms, 2s.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: humantime::Duration,
    /// Channels on a screen.
    #[arg(long, value_name = "N", default_value_t = 20)]
    channels: usize,
    /// End after so many screens.
    #[arg(long, value_name = "N")]
    screens: Option<u64>,
}

/// List sessions.
#[derive(Args)]
pub(crate) struct Connections {
    #[command(flatten)]
    admin: Admin,
    /// Only sessions of this user.
    #[arg(long)]
    user: Option<String>,
    /// Only sessions of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Only subscribers of this channel.
    #[arg(long)]
    channel: Option<String>,
    /// Only sessions of this dialect.
    #[arg(long)]
    dialect: Option<String>,
    /// Only clients of this IP address.
    #[arg(long)]
    address: Option<String>,
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
}

/// Close a session, or all sessions of a user.
#[derive(Args)]
pub(crate) struct Disconnect {
    #[command(flatten)]
    admin: Admin,
    /// The session's id.
    #[arg(required_unless_present = "user")]
    id: Option<String>,
    /// The user whose sessions are closed.
    #[arg(long, conflicts_with = "id")]
    user: Option<String>,
    /// Only the user's sessions of this tenant.
    #[arg(long, requires = "user")]
    tenant: Option<String>,
}

/// Publish on a channel.
#[derive(Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    admin: Admin,
    /// The channel.
    channel: String,
    /// JSON; anything else is sent as a text.
    data: String,
    /// The type of the message.
    #[arg(long = "type", value_name = "TYPE", default_value = "message")]
    kind: String,
    /// The tenant whose channel it is.
    #[arg(long)]
    tenant: Option<String>,
}

impl Admin {
    /// The answer to a request.
    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let at = self.admin.to_string();
        let failed = |text: String| CommandError::Server(format!("{at}: {text}"));
        let url = format!("{}{target}", at.trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(url);
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| failed(error.to_string()))?;
        let client = HttpClient::for_url(&at).map_err(|error| failed(error.to_string()))?;
        let sent = tokio::time::timeout(TIMEOUT, client.send(request, ANSWER_BYTES_MAX));
        let sent = sent
            .await
            .unwrap_or_else(|_| Err("no answer in 30 s".into()));
        let (status, body) = sent.map_err(failed)?;
        let answer = serde_json::from_slice(&body);
        match (status.is_success(), answer) {
            (true, Ok(answer)) => Ok(answer),
            (true, Err(_)) => Err(failed("the answer is not JSON: no admin listener?".into())),
            (false, answer) => {
                let answer: Value = answer.unwrap_or_default();
                let error = answer["error"].as_str().unwrap_or("no reason given");
                Err(failed(format!("{status}: {}", clean(error))))
            }
        }
    }

    async fn get(&self, target: &str) -> Result<Value, CommandError> {
        self.request(Method::GET, target, None).await
    }

    /// All entries of a list, page by page.
    async fn all(&self, target: &str, name: &str) -> Result<Vec<Value>, CommandError> {
        let mut entries = Vec::new();
        let mut after = String::new();
        loop {
            let separator = if target.contains('?') { '&' } else { '?' };
            let page = format!("{target}{separator}limit={PAGE}{after}");
            let mut page = self.get(&page).await?;
            let Value::Array(found) = page[name].take() else {
                let error = format!("{}: the answer has no `{name}`", self.admin);
                return Err(CommandError::Server(error));
            };
            let is_empty = found.is_empty();
            entries.extend(found);
            match page["next"].as_str() {
                // Only a server that is none of this kind has a next page after an empty one.
                Some(next) if !is_empty => after = format!("&after={}", encoded(next)),
                _ => return Ok(entries),
            }
        }
    }
}

impl Stats {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        loop {
            let status = self.admin.get("/status").await?;
            let text = match self.json {
                true => format!("{status}\n"),
                false => numbers(&status),
            };
            let screen = if self.watch && !self.json {
                new_screen()
            } else {
                ""
            };
            print(&format!("{screen}{text}"))?;
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(self.interval.into()).await;
        }
    }
}

/// The numbers of `/status`, one in a row.
fn numbers(status: &Value) -> String {
    let mut rows = vec![
        vec!["status".to_owned(), shown(&status["status"])],
        vec!["version".to_owned(), shown(&status["version"])],
        vec!["shards".to_owned(), shown(&status["shards"])],
    ];
    for (name, value) in status["metrics"].as_object().into_iter().flatten() {
        match value {
            Value::Object(parts) => rows.extend(
                parts
                    .iter()
                    .map(|(part, value)| vec![format!("{name} {part}"), shown(value)]),
            ),
            value => rows.push(vec![name.clone(), shown(value)]),
        }
    }
    table(&["number", "value"], &rows)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        value => value.to_string(),
    }
}

impl Top {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut before: Option<(tokio::time::Instant, Value)> = None;
        let mut screens = 0;
        loop {
            let now = tokio::time::Instant::now();
            let mut status = self.admin.get("/status").await?;
            let metrics = status["metrics"].take();
            let channels = self.admin.all("/api/channels", "channels").await?;
            let screen = self.screen(&status, &metrics, before.as_ref(), (now, channels));
            print(&format!("{}{screen}", new_screen()))?;
            before = Some((now, metrics));
            screens += 1;
            if self.screens.is_some_and(|all| screens >= all) {
                return Ok(());
            }
            tokio::time::sleep(self.interval.into()).await;
        }
    }

    fn screen(
        &self,
        status: &Value,
        metrics: &Value,
        before: Option<&(tokio::time::Instant, Value)>,
        (now, mut channels): (tokio::time::Instant, Vec<Value>),
    ) -> String {
        let count = |metrics: &Value, name: &str| metrics[name].as_f64().unwrap_or_default();
        let rate = |name: &str| {
            let Some((at, earlier)) = before else {
                return "-".to_owned();
            };
            let more = count(metrics, name) - count(earlier, name);
            format!("{:.0}/s", more / (now - *at).as_secs_f64())
        };
        let rows = [
            ("received", "messages_received"),
            ("published", "publications"),
            ("delivered", "messages_sent"),
            ("connected", "total_connections"),
        ];
        let rows = rows.map(|(label, name)| {
            vec![
                label.to_owned(),
                format!("{:.0}", count(metrics, name)),
                rate(name),
            ]
        });
        channels.sort_by_key(|channel| std::cmp::Reverse(channel["subscribers"].as_u64()));
        let total = channels.len();
        let top = channels.iter().take(self.channels).map(|channel| {
            let tenant = channel["tenant"].as_str().unwrap_or_default();
            vec![
                shown(&channel["subscribers"]),
                shown(&channel["name"]),
                clean(tenant),
            ]
        });
        format!(
            "{}: {} sessions, {} subscriptions, {total} channels\n\n{}\n{}",
            shown(&status["status"]),
            shown(&metrics["active_connections"]),
            shown(&metrics["subscriptions"]),
            table(&["messages", "total", "rate"], &rows),
            table(
                &["subscribers", "channel", "tenant"],
                &top.collect::<Vec<_>>()
            ),
        )
    }
}

impl Connections {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let parameters: HashMap<_, _> = [
            ("user", &self.user),
            ("tenant", &self.tenant),
            ("channel", &self.channel),
            ("dialect", &self.dialect),
            ("address", &self.address),
        ]
        .into();
        let parameters = parameters
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
        let query = parameters.collect::<Vec<_>>().join("&");
        let target = match query.is_empty() {
            true => "/api/connections".to_owned(),
            false => format!("/api/connections?{query}"),
        };
        let connections = self.admin.all(&target, "connections").await?;
        if self.json {
            let lines = connections.iter().map(|it| format!("{it}\n"));
            return print(&lines.collect::<String>());
        }
        let rows = connections.iter().map(|it| {
            let channels = it["channels"].as_array().map_or(0, Vec::len);
            let text = |name: &str| it[name].as_str().map(clean).unwrap_or_default();
            vec![
                text("id"),
                text("dialect"),
                text("user_id"),
                text("tenant_id"),
                text("address"),
                channels.to_string(),
                format!("{:.0}s", it["uptime"].as_f64().unwrap_or_default()),
            ]
        });
        let heading = [
            "id", "dialect", "user", "tenant", "address", "channels", "for",
        ];
        print(&table(&heading, &rows.collect::<Vec<_>>()))
    }
}

impl Disconnect {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let target = match (&self.id, &self.user, &self.tenant) {
            (Some(id), ..) => format!("/admin/connections/{}", encoded(id)),
            (None, user, None) => {
                let user = user.as_deref().unwrap_or_default();
                format!("/admin/users/{}/connections", encoded(user))
            }
            (None, user, Some(tenant)) => {
                let user = user.as_deref().unwrap_or_default();
                let tenant = encoded(tenant);
                format!("/admin/users/{}/connections?tenant={tenant}", encoded(user))
            }
        };
        let answer = self.admin.request(Method::DELETE, &target, None).await?;
        let count = answer["disconnected"].as_u64().unwrap_or(1);
        print(&format!("disconnected {count}\n"))
    }
}

impl Publish {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let data = serde_json::from_str(&self.data);
        let data = data.unwrap_or_else(|_| Value::from(self.data.as_str()));
        let mut body = json!({"channel": self.channel, "type": self.kind, "data": data});
        if let Some(tenant) = &self.tenant {
            body["tenant"] = tenant.as_str().into();
        }
        let admin = &self.admin;
        admin
            .request(Method::POST, "/api/publish", Some(&body))
            .await?;
        print("published\n")
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
