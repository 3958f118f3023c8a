//! A connection to Redis: commands go out, messages of subscribed channels come in.

use super::script::{CatchUp, Names, Scripts};
use crate::config::RedisAddress;
use futures_util::future::join_all;
use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisError, ServerErrorKind, TlsCertificates, TlsMode,
    Value,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Names in one command: a long one would hold up others in Redis.
const NAMES_PER_COMMAND: usize = 500;

/// What comes in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message: the channel in Redis, and what it says.
    Message(Vec<u8>, Vec<u8>),
    /// The connection is lost, or does not bring everything any more.
    Lost,
}

/// Sharded channels that the node is about to leave. Redis takes it off others when their slot moves to another
/// server.
type Leaving = Arc<Mutex<HashSet<Vec<u8>>>>;

/// Called with what comes in.
pub(super) type Receive = Arc<dyn Fn(Incoming) + Send + Sync>;

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) address: RedisAddress,
    /// The authority of TLS, as PEM; `None` = those of the system.
    pub(super) tls_ca: Option<Vec<u8>>,
    /// Time for an answer.
    pub(super) timeout: Duration,
}

/// A connection. Copies share it.
#[derive(Clone)]
pub(super) struct Connection {
    link: Link,
    pub(super) names: Arc<Names>,
    pub(super) scripts: Arc<Scripts>,
    leaving: Leaving,
}

#[derive(Clone)]
enum Link {
    Server {
        commands: MultiplexedConnection,
        subscriptions: MultiplexedConnection,
    },
    Cluster(ClusterConnection),
}

/// A server that has keys.
pub(super) enum Master {
    /// There is only one.
    Single,
    /// Host and port of one of a cluster.
    OfCluster(String, u16),
}

/// What a failed command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Redis will not take it.
    Rejected,
    /// Redis may take it later, or another server does.
    Later,
}

impl Connector {
    /// Connects, and makes the scripts known.
    pub(super) async fn connect(
        &self,
        prefix: String,
        receive: Receive,
    ) -> Result<Connection, RedisError> {
        let leaving = Leaving::default();
        let link = match &self.address {
            RedisAddress::Server(info) => {
                let client = match &self.tls_ca {
                    Some(_) => Client::build_with_tls((**info).clone(), self.certificates())?,
                    None => Client::open((**info).clone())?,
                };
                self.link_to(&client, forward(receive, &leaving)).await?
            }
            RedisAddress::Sentinels { .. } => {
                let client = self.master().await?;
                self.link_to(&client, forward(receive, &leaving)).await?
            }
            RedisAddress::Cluster(nodes) => {
                let mut builder = ClusterClientBuilder::new(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(self.timeout)
                    .response_timeout(self.timeout)
                    .push_sender(forward(receive, &leaving));
                if self.tls_ca.is_some() {
                    builder = builder.certs(self.certificates());
                }
                let client = builder.build()?;
                Link::Cluster(client.get_async_connection().await?)
            }
        };
        let names = Names {
            prefix,
            is_sharded: matches!(link, Link::Cluster(_)),
        };
        let mut connection = Connection {
            link,
            names: Arc::new(names),
            scripts: Arc::new(Scripts::new()),
            leaving,
        };
        let load = connection.scripts.load();
        for loaded in connection.run(load).await {
            loaded?;
        }
        Ok(connection)
    }

    /// The client of the server that is the master now.
    async fn master(&self) -> Result<Client, RedisError> {
        let RedisAddress::Sentinels {
            sentinels,
            master,
            settings,
        } = &self.address
        else {
            return Err((ErrorKind::InvalidClientConfig, "no sentinels").into());
        };
        let addresses = sentinels.iter().map(|url| {
            let info = url.as_str().into_connection_info()?;
            Ok(info.addr().clone())
        });
        let addresses = addresses.collect::<Result<Vec<_>, RedisError>>()?;
        let role = SentinelServerType::Master;
        let redis = settings.redis_settings();
        let mut builder = SentinelClientBuilder::new(addresses, master, role)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_db(redis.db());
        if let Some(name) = redis.username() {
            builder = builder.set_client_to_redis_username(name);
        }
        if let Some(password) = redis.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let ConnectionAddr::TcpTls { .. } = settings.addr() {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if self.tls_ca.is_some() {
                builder = builder
                    .set_client_to_redis_certificates(self.certificates())
                    .set_client_to_sentinel_certificates(self.certificates());
            }
        }
        let mut client = builder.build()?;
        let master = client.async_get_client().await?;
        let info = master.get_connection_info().clone();
        Client::open(info.set_redis_settings(redis.clone()))
    }

    async fn link_to(
        &self,
        client: &Client,
        forward: impl AsyncPushSender,
    ) -> Result<Link, RedisError> {
        let config = || {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout))
        };
        let connect = |config| client.get_multiplexed_async_connection_with_config(config);
        let commands = config();
        let subscriptions = config().set_push_sender(forward);
        let (commands, subscriptions) = (Box::new(commands), Box::new(subscriptions));
        Ok(Link::Server {
            commands: connect(&commands).await?,
            subscriptions: connect(&subscriptions).await?,
        })
    }

    fn certificates(&self) -> TlsCertificates {
        TlsCertificates {
            client_tls: None,
            root_cert: self.tls_ca.clone(),
        }
    }
}

/// Passes on the messages, and that the connection is lost.
fn forward(
    receive: Receive,
    leaving: &Leaving,
) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
    let leaving = Arc::clone(leaving);
    move |push| {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                let mut data = push.data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) =
                    (data.next(), data.next())
                {
                    receive(Incoming::Message(channel, message));
                }
            }
            // One that nobody has asked for was also taken for the answer to something else: from here on, answers
            // are those of other commands.
            PushKind::SUnsubscribe if !is_asked_for(&push.data, &leaving) => {
                receive(Incoming::Lost);
            }
            PushKind::Disconnection => receive(Incoming::Lost),
            _ => {}
        }
        Ok(())
    }
}

/// Whether the node itself leaves the channel that Redis has taken it off.
fn is_asked_for(data: &[Value], leaving: &Leaving) -> bool {
    let Some(Value::BulkString(channel)) = data.first() else {
        return true;
    };
    lock(leaving).remove(channel)
}

fn lock(leaving: &Leaving) -> MutexGuard<'_, HashSet<Vec<u8>>> {
    // A panic of another thread leaves the set whole.
    leaving.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Runs commands; those on one channel in their order. One answer for each.
    pub(super) async fn run(&mut self, commands: Vec<Cmd>) -> Vec<Result<Value, RedisError>> {
        let count = commands.len();
        match &mut self.link {
            Link::Server { commands: link, .. } => {
                let mut pipeline = Pipeline::with_capacity(count);
                commands.into_iter().for_each(|command| {
                    pipeline.add_command(command);
                });
                match link.req_packed_commands(&pipeline, 0, count).await {
                    Ok(values) => values.into_iter().map(Value::extract_error).collect(),
                    Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
                }
            }
            // Each is of another channel, and so perhaps for another server.
            Link::Cluster(link) => {
                let runs = commands.into_iter().map(|command| {
                    let mut link = link.clone();
                    async move { link.req_packed_command(&command).await?.extract_error() }
                });
                join_all(runs).await
            }
        }
    }

    /// All servers that have keys.
    pub(super) async fn masters(&mut self) -> Result<Vec<Master>, RedisError> {
        if let Link::Server { .. } = self.link {
            return Ok(vec![Master::Single]);
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let slots = self.run(vec![command]).await.pop();
        // Of each range of slots: its first and last, and its servers, the master first.
        let ranges: Vec<Vec<Value>> = redis::from_redis_value(slots.unwrap_or(Ok(Value::Nil))?)?;
        let mut masters = Vec::new();
        for range in ranges {
            let Some(Value::Array(master)) = range.into_iter().nth(2) else {
                continue;
            };
            if let [Value::BulkString(host), Value::Int(port), ..] = &master[..]
                && let Ok(port) = u16::try_from(*port)
            {
                let master = (String::from_utf8_lossy(host).into_owned(), port);
                if !masters.contains(&master) {
                    masters.push(master);
                }
            }
        }
        let masters = masters.into_iter();
        let masters = masters.map(|(host, port)| Master::OfCluster(host, port));
        Ok(masters.collect())
    }

    /// Runs a command on one of them.
    pub(super) async fn run_at(&mut self, at: &Master, command: Cmd) -> Result<Value, RedisError> {
        let (Link::Cluster(link), Master::OfCluster(host, port)) = (&mut self.link, at) else {
            let result = self.run(vec![command]).await.pop();
            return result.unwrap_or(Ok(Value::Nil));
        };
        let (host, port) = (host.clone(), *port);
        let at = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
        link.route_command(command, at).await?.extract_error()
    }

    /// Subscribes to channels.
    pub(super) async fn subscribe(&mut self, channels: &[String]) -> Result<(), RedisError> {
        self.change(channels, true).await
    }

    /// Unsubscribes from channels.
    pub(super) async fn unsubscribe(&mut self, channels: &[String]) -> Result<(), RedisError> {
        self.change(channels, false).await
    }

    async fn change(&mut self, channels: &[String], is_wanted: bool) -> Result<(), RedisError> {
        match &mut self.link {
            Link::Server { subscriptions, .. } => {
                for some in channels.chunks(NAMES_PER_COMMAND) {
                    match is_wanted {
                        true => subscriptions.subscribe(some).await?,
                        false => subscriptions.unsubscribe(some).await?,
                    }
                }
            }
            Link::Cluster(link) => {
                for some in channels.chunks(NAMES_PER_COMMAND) {
                    if !is_wanted {
                        let names = some.iter().map(|channel| channel.as_bytes().to_vec());
                        lock(&self.leaving).extend(names);
                    }
                    let changes = some.iter().map(|channel| {
                        let mut link = link.clone();
                        async move {
                            match is_wanted {
                                true => link.ssubscribe(channel).await,
                                false => link.sunsubscribe(channel).await,
                            }
                        }
                    });
                    for changed in join_all(changes).await {
                        changed?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what follows on channels with a history.
    pub(super) async fn catch_up(&mut self, of: &[CatchUp<'_>]) -> Vec<Result<Value, RedisError>> {
        let commands = of.iter().map(|of| self.scripts.catch_up(&self.names, *of));
        let commands = commands.collect();
        self.run(commands).await
    }
}

/// What an error of a command means.
pub(super) fn failure(error: &RedisError) -> Failure {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::ResponseError | ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot,
        )
        | ErrorKind::UnexpectedReturnType => Failure::Rejected,
        // Of codes that the library does not know.
        ErrorKind::Extension if takes_nothing(error) || error.code() == Some("WRONGTYPE") => {
            Failure::Rejected
        }
        _ => Failure::Later,
    }
}

/// Whether an error says that Redis stores nothing of anybody now.
pub(super) fn takes_nothing(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("OOM" | "NOREPLICAS" | "MISCONF" | "READONLY")
    )
}

/// What errors say whose kind is that of a lost connection, though the settings are wrong. A cluster passes on
/// nothing but the text of an error.
const MISCONFIGURED: [&str; 4] = ["invalid peer certificate", "WRONGPASS", "NOAUTH", "NOPERM"];

/// Whether an error says that the settings are wrong, not that Redis is away.
pub(super) fn is_misconfigured(error: &RedisError) -> bool {
    let text = error.to_string();
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::RESP3NotSupported
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
    ) || MISCONFIGURED.iter().any(|it| text.contains(it))
}
