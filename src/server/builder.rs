//! A server before it starts: its settings and its handlers.

use super::boot::{ProgramHooks, start};
use super::error::StartError;
use super::handle::Server;
use crate::auth::{Grant, Identity, TokenAlgorithm};
use crate::base::DialectId;
use crate::config::{
    Inputs, Listener, LogFormat, Notice, Report, Secret, SettingValue, Settings, SettingsError,
    ShardCount,
};
use crate::dialect;
use crate::observe::log::{self, LogGuard};
use crate::shard::{AsyncSession, BoxFuture, Denied, Message, Next, OwnedMessage, Session};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A server that is not running yet.
///
/// A builder reads the environment and files only after [`from_env`] and [`config_file`]. Settings
/// of the program override both.
///
/// ```no_run
/// let server = fanwire::Server::builder()
///     .profile(fanwire::DialectId::Gateway)
///     .jwt_secret("a secret of 32 bytes or more, from a vault")
///     .set("gateway.sessions_per_ip_max", 0)
///     .start()?;
/// # Ok::<(), fanwire::StartError>(())
/// ```
///
/// [`from_env`]: Builder::from_env
/// [`config_file`]: Builder::config_file
#[derive(Debug, Default)]
#[must_use]
pub struct Builder {
    inputs: Inputs,
    program: ProgramHooks,
}

/// The source of what the program sets, in errors and reports.
const PROGRAM: &str = "the program";

impl Builder {
    /// Sets any setting by its key, with the values that the configuration file accepts.
    /// [`settings`](crate::settings) lists the keys; invalid settings are reported when the server
    /// starts.
    ///
    /// ```
    /// let builder = fanwire::Server::builder()
    ///     .set("ring_bytes", "16 MiB")
    ///     .set("gateway.ping_interval", "20s")
    ///     .set("allowed_origins", vec!["https://example.org"]);
    /// # drop(builder);
    /// ```
    pub fn set(self, key: &str, value: impl Into<SettingValue>) -> Self {
        self.set_from(PROGRAM, key, value)
    }

    /// The same, naming the source of the value in errors and reports, such as a command line flag.
    ///
    /// ```
    /// let builder = fanwire::Server::builder().set_from("--shards", "shards", "two");
    /// let error = builder.start().unwrap_err().to_string();
    /// assert!(error.contains("invalid value \"two\" for `shards` (--shards)"));
    /// ```
    pub fn set_from(mut self, source: &str, key: &str, value: impl Into<SettingValue>) -> Self {
        self.inputs.set(key, value.into(), source.to_owned());
        self
    }

    /// Also reads a configuration file (TOML); settings of the program and the environment override
    /// it.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().config_file("/etc/fanwire.toml").start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.inputs.read_file(path.into());
        self
    }

    /// With the defaults of `fanwire serve`, where they are not those of a program that embeds the
    /// server: it has an admin listener.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().from_env().from_command_line().start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn from_command_line(mut self) -> Self {
        self.inputs.set_command_line();
        self
    }

    /// Also reads the environment variables and the `.env` file of the working directory; settings
    /// of the program override them.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().from_env().start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn from_env(mut self) -> Self {
        self.inputs.read_environment();
        self
    }

    /// Insecure development mode: loopback, no authentication, no rate limits, no session limits.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn dev(self) -> Self {
        self.set("dev", true)
    }

    /// Replaces one legacy server: serves only its dialect, at its port and path, with its defaults
    /// and limits.
    ///
    /// ```no_run
    /// use fanwire::{DialectId, Server};
    ///
    /// let server = Server::builder().profile(DialectId::Notifications).start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn profile(self, dialect: DialectId) -> Self {
        self.set("profile", dialect.name())
    }

    /// Address and port to listen on. Port 0 lets the kernel choose; see [`Server::addresses`].
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().listen(([127, 0, 0, 1], 0).into()).start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn listen(self, address: SocketAddr) -> Self {
        self.set("listen", address.to_string())
    }

    /// Several listeners in one process, in place of `listen` and `profile`.
    ///
    /// ```no_run
    /// use fanwire::{DialectId, Listener, Server};
    ///
    /// let server = Server::builder()
    ///     .jwt_secret("a secret of 32 bytes or more, from a vault")
    ///     .listeners([
    ///         Listener::of(DialectId::Monitoring, ([0, 0, 0, 0], 8765).into()),
    ///         Listener::by_path(([127, 0, 0, 1], 8770).into()),
    ///     ])
    ///     .start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn listeners(mut self, listeners: impl IntoIterator<Item = Listener>) -> Self {
        self.inputs.set_listeners(listeners.into_iter().collect());
        self
    }

    /// The number of shards, each on a core of its own.
    ///
    /// ```
    /// use fanwire::{Server, ShardCount};
    ///
    /// let builder = Server::builder().shards(ShardCount::Fixed(2));
    /// # drop(builder);
    /// ```
    pub fn shards(self, count: ShardCount) -> Self {
        match count {
            ShardCount::Auto => self.set("shards", "auto"),
            ShardCount::Fixed(count) => self.set("shards", u64::from(count)),
        }
    }

    /// The secret that JSON Web Tokens are signed with, 32 bytes or more.
    ///
    /// ```
    /// let secret = "a secret of 32 bytes or more, from a vault";
    /// let builder = fanwire::Server::builder().jwt_secret(secret);
    /// # drop(builder);
    /// ```
    pub fn jwt_secret(self, secret: impl Into<String>) -> Self {
        self.set("jwt_secret", secret.into())
    }

    /// Authenticates tokens with `check`, before static tokens and the JWT secret; if it returns
    /// `None`, these are tried. It runs on the session's shard and must not block.
    ///
    /// ```
    /// use fanwire::{Identity, Server};
    ///
    /// let builder = Server::builder().authenticate(|token| {
    ///     (token == "letmein").then(|| Identity::new("ann"))
    /// });
    /// # drop(builder);
    /// ```
    pub fn authenticate(
        mut self,
        check: impl Fn(&str) -> Option<Identity> + Send + Sync + 'static,
    ) -> Self {
        self.program.token_check = Some(Arc::new(check));
        self.inputs.set_token_check();
        self
    }

    /// Authenticates tokens that neither [`authenticate`](Self::authenticate) nor static tokens nor
    /// keys prove, with an asynchronous `check`, which may ask a database. Its future runs on the
    /// integration thread, a tokio runtime, for at most `handler_timeout`; the messages of the
    /// session wait.
    ///
    /// ```
    /// use fanwire::{Identity, Server};
    ///
    /// let builder = Server::builder().authenticate_async(|token| async move {
    ///     (token == "letmein").then(|| Identity::new("ann"))
    /// });
    /// # drop(builder);
    /// ```
    pub fn authenticate_async<F>(
        mut self,
        check: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Identity>> + Send + 'static,
    {
        self.program.async_token_check = Some(Arc::new(move |token| Box::pin(check(token))));
        self.inputs.set_token_check();
        self
    }

    /// Calls an asynchronous `handler` for messages of type `kind`. Its future runs on the integration
    /// thread, a tokio runtime, for at most `handler_timeout`. Further messages of the session wait in
    /// their order; its shard does not.
    ///
    /// ```
    /// let builder = fanwire::Server::builder().on_message_async("echo", |session, message| async move {
    ///     session.send("echo_response", &message.parse::<serde_json::Value>()?)
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_message_async<F>(
        mut self,
        kind: &str,
        handler: impl Fn(AsyncSession, OwnedMessage) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        let handler = move |session, message| -> BoxFuture<_> {
            let handled = handler(session, message);
            Box::pin(async move { Ok(handled.await?) })
        };
        self.program.hooks.on_message_async(kind, false, handler);
        self
    }

    /// Calls an asynchronous `handler` when a session begins; an error closes the session (1008).
    ///
    /// ```
    /// let builder = fanwire::Server::builder().on_connect_async(|session| async move {
    ///     session.subscribe("news");
    ///     Ok(())
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_connect_async<F>(
        mut self,
        handler: impl Fn(AsyncSession) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        let handler = move |session| -> BoxFuture<_> {
            let handled = handler(session);
            Box::pin(async move { Ok(handled.await?) })
        };
        self.program.hooks.on_connect_async(handler);
        self
    }

    /// Calls `handler` on the session's shard for messages of type `kind`, which its dialect does
    /// not have; sessions must have authenticated where their dialect requires it.
    ///
    /// ```
    /// let builder = fanwire::Server::builder().on_message("echo", |session, message| {
    ///     session.send("echo_response", &message.parse::<serde_json::Value>()?)
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_message(
        mut self,
        kind: &str,
        handler: impl Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_message(kind, false, handler);
        self
    }

    /// The same, also before authentication: for programs that check credentials of their own and
    /// call [`Session::identify`].
    ///
    /// ```
    /// use fanwire::{Denied, Identity, Server};
    ///
    /// let builder = Server::builder();
    /// let builder = builder.on_message_before_authentication("login", |session, message| {
    ///     let password: String = message.parse()?;
    ///     if password != "letmein" {
    ///         return Err(Denied::because("wrong password"));
    ///     }
    ///     session.identify(Identity::new("ann"));
    ///     Ok(())
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_message_before_authentication(
        mut self,
        kind: &str,
        handler: impl Fn(&mut Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_message(kind, true, handler);
        self
    }

    /// Calls `handler` on the session's shard for every text message, before its dialect decodes it and
    /// before the middleware. It answers with [`Session::send_text`] and the like, and says whether the
    /// message is handled or goes to the dialect. An error is sent to the client, in its dialect.
    ///
    /// The session is one of its dialect in all else: it authenticates where that is required (until it
    /// has, the handler is not called), and it has the limits, pings and broadcasts of its dialect. While a client does
    /// not read what it was sent, none of its messages are handled. `examples/echo.rs` has the settings of
    /// a server that sends nothing by itself.
    ///
    /// ```
    /// use fanwire::{Next, Server};
    ///
    /// let builder = Server::builder().on_text(|session, text| {
    ///     session.send_text(text);
    ///     Ok(Next::Done)
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_text(
        mut self,
        handler: impl Fn(&mut Session<'_>, &str) -> Result<Next, Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_text(handler);
        self
    }

    /// The same for every binary message. Without a handler, what it is depends on the dialect.
    ///
    /// ```
    /// use fanwire::{Next, Server};
    ///
    /// let builder = Server::builder().on_binary(|session, bytes| {
    ///     match bytes.split_first() {
    ///         Some((7, rest)) => session.send_binary(rest),
    ///         _ => session.close_with(4000, "unknown message")?,
    ///     }
    ///     Ok(Next::Done)
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_binary(
        mut self,
        handler: impl Fn(&mut Session<'_>, &[u8]) -> Result<Next, Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_binary(handler);
        self
    }

    /// Calls `handler` when a session begins; an error closes the session (1008).
    ///
    /// ```
    /// let builder = fanwire::Server::builder().on_connect(|session| {
    ///     session.subscribe("news");
    ///     Ok(())
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_connect(
        mut self,
        handler: impl Fn(&mut Session<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.on_connect(handler);
        self
    }

    /// Calls `handler` when a session has ended.
    ///
    /// ```
    /// let builder = fanwire::Server::builder()
    ///     .on_disconnect(|session| println!("{} has left", session.id()));
    /// # drop(builder);
    /// ```
    pub fn on_disconnect(mut self, handler: impl Fn(&Session<'_>) + Send + Sync + 'static) -> Self {
        self.program.hooks.on_disconnect(handler);
        self
    }

    /// Calls `middleware` for every message before anything else; an error is sent to the client,
    /// and the message is dropped.
    ///
    /// ```
    /// use fanwire::{Denied, Server};
    ///
    /// let builder = Server::builder().middleware(|_, message| {
    ///     match message.data.contains("spam") {
    ///         true => Err(Denied::because("no spam")),
    ///         false => Ok(()),
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    pub fn middleware(
        mut self,
        middleware: impl Fn(&Session<'_>, Message<'_>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        self.program.hooks.middleware(middleware);
        self
    }

    /// Reads and checks all settings, without starting anything.
    ///
    /// # Errors
    /// [`StartError::Settings`], [`StartError::ReservedType`] and [`StartError::HandledType`].
    ///
    /// ```
    /// let configured = fanwire::Server::builder().dev().configure()?;
    /// println!("{}", configured.report());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn configure(self) -> Result<Configured, StartError> {
        let settings = self.inputs.load()?;
        let callbacks = || settings.webhooks.message_callbacks.iter();
        if let Some(callback) = callbacks().find(|it| self.program.hooks.handles(&it.kind)) {
            let kind = callback.kind.clone();
            return Err(StartError::HandledType { kind });
        }
        for dialect in settings.dialects_in_use() {
            let of_callbacks = callbacks().map(|callback| &*callback.kind);
            let mut kinds = self.program.hooks.message_kinds().chain(of_callbacks);
            if let Some(kind) = kinds.find(|kind| dialect::is_own_type(dialect, kind)) {
                let kind = kind.to_owned();
                return Err(StartError::ReservedType { kind, dialect });
            }
        }
        Ok(Configured {
            settings,
            reads_environment: self.inputs.reads_environment(),
            program: self.program,
        })
    }

    /// Starts the server and returns when all shards accept connections.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn start(self) -> Result<Server, StartError> {
        self.configure()?.start()
    }
}

/// A server whose settings are read and valid.
///
/// ```no_run
/// let configured = fanwire::Server::builder().dev().configure()?;
/// let server = configured.start()?;
/// # Ok::<(), fanwire::StartError>(())
/// ```
#[derive(Debug)]
pub struct Configured {
    pub(super) settings: Settings,
    reads_environment: bool,
    pub(super) program: ProgramHooks,
}

impl Configured {
    /// Every setting in force and its source, as a configuration file; secrets are masked.
    ///
    /// ```
    /// let configured = fanwire::Server::builder().dev().configure()?;
    /// assert!(configured.report().to_string().contains("dev = true  # the program"));
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.settings.report
    }

    /// What in the settings is likely to be a mistake, as the log says it.
    ///
    /// ```
    /// let configured = fanwire::Server::builder().dev().configure()?;
    /// assert_eq!(configured.warnings().count(), 0);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let notices = self.settings.notices.iter();
        notices.filter_map(|notice| match notice {
            Notice::Warning(text) => Some(&**text),
            Notice::Info(_) => None,
        })
    }

    /// A token (HS256) that a server with these settings accepts, with an issuer and an audience if it
    /// wants them.
    ///
    /// # Errors
    /// As [`issue_token`](crate::issue_token); also when no secret is set, it can be guessed, or the settings do not
    /// accept such tokens.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let builder = fanwire::Server::builder().jwt_secret("a secret of 32 bytes or more, which nobody knows");
    /// let grant = fanwire::TokenGrant::new("ann");
    /// let token = builder.configure()?.issue_token(&grant, Duration::from_secs(60));
    /// assert!(token.is_ok());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn issue_token(&self, grant: &Grant, ttl: Duration) -> Result<String, String> {
        let tokens = &self.settings.tokens;
        let algorithms = &tokens.jwt_algorithms;
        if !algorithms.is_empty() && !algorithms.contains(&TokenAlgorithm::Hs256) {
            return Err("`jwt_algorithms` does not have HS256".into());
        }
        let secret = tokens.jwt_secret.as_ref();
        let secret = secret.ok_or("`jwt_secret` is not set; see `fanwire serve --help`")?;
        if secret.is_weak() {
            return Err(
                "the JWT secret can be guessed: it is shorter than 32 bytes, or from an example"
                    .into(),
            );
        }
        let mut grant = grant.clone();
        let first = |values: &[String]| values.first().cloned();
        let claims = [
            ("iss", first(&tokens.jwt_issuers)),
            ("aud", first(&tokens.jwt_audiences)),
        ];
        for (claim, value) in claims {
            if let Some(value) = value {
                grant.attributes.entry(claim.into()).or_insert(value);
            }
        }
        crate::issue_token(&grant, &secret.0, ttl)
    }

    /// Writes the logs of the process as the settings specify, until the guard is dropped, and
    /// first logs the notices about the settings. Programs with a `tracing` subscriber of their own
    /// do not call it. After [`Builder::from_env`], `RUST_LOG` overrides the level.
    ///
    /// # Errors
    /// When a log file cannot be written.
    ///
    /// ```no_run
    /// let configured = fanwire::Server::builder().from_env().configure()?;
    /// let guard = configured.start_logging()?;
    /// let server = configured.start()?;
    /// # drop(guard);
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn start_logging(&self) -> Result<LogGuard, StartError> {
        let guard = log::start(
            &self.settings.log,
            self.settings.is_log_file_required,
            self.reads_environment,
        )
        .map_err(SettingsError::File)?;
        for notice in &self.settings.notices {
            match notice {
                Notice::Info(text) => tracing::info!("{text}"),
                Notice::Warning(text) => tracing::warn!("{text}"),
            }
        }
        Ok(guard)
    }

    /// Whether the log is text on standard error, or the server is in development mode: somebody may
    /// read what a program prints when the server has started. Otherwise all of it is in the log.
    ///
    /// ```
    /// let configured = fanwire::Server::builder().dev().configure()?;
    /// assert!(configured.logs_for_people());
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    #[must_use]
    pub fn logs_for_people(&self) -> bool {
        let log = &self.settings.log;
        let is_text = log.log_format == LogFormat::Text && log.log_file.is_none();
        is_text || self.settings.process.dev
    }

    /// Starts the server and returns when all shards accept connections. In development mode
    /// without a JWT secret, it generates one for this run.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    ///
    /// ```no_run
    /// let server = fanwire::Server::builder().dev().configure()?.start()?;
    /// # Ok::<(), fanwire::StartError>(())
    /// ```
    pub fn start(mut self) -> Result<Server, StartError> {
        let tokens = &mut self.settings.tokens;
        if self.settings.process.dev && tokens.jwt_secret.is_none() {
            tokens.jwt_secret = Some(random_secret()?);
        }
        let running = start(&self.settings, self.program)?;
        Ok(Server::new(running, self.settings))
    }
}

fn random_secret() -> Result<Secret, StartError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Other(error.to_string()))?;
    Ok(Secret(
        bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}
