//! Settings of HTTP: what each port answers, and who may call the API.

use super::declaration::settings;
use super::listener::{Listener, Routes};
use super::origin::OriginPattern;
use super::secret::{MASK, Secret};
use super::value::{SettingType, SettingValue};
use crate::base::DialectId;
use crate::base::channel_names::is_tenant_id;
use crate::base::label::{Label, label};
use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};

/// Shortest key, bytes.
const KEY_BYTES_MIN: usize = 16;
/// What stands for no address.
const NONE: &str = "none";

label! {
    /// What a key of the HTTP API allows.
    ApiScope {
        /// To publish and to send messages.
        Publish = "publish",
        /// To see channels, connections, presence and history.
        Read = "read",
        /// To disconnect, to subscribe and unsubscribe sessions, and to delete history.
        Admin = "admin",
    }
}

label! {
    /// A part of what is answered over HTTP.
    HttpPart {
        /// `/health`, `/health/live` and `/health/ready`.
        Health = "health",
        /// `/metrics`, `/metrics/prometheus` and `/status`.
        Metrics = "metrics",
        /// `POST /notify`.
        Notify = "notify",
        /// `/api`, `/admin`, `/openapi.json` and `/docs`.
        Api = "api",
    }
}

/// Parts of what is answered over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpParts([bool; HttpPart::ALL.len()]);

impl HttpParts {
    /// All of them.
    pub const ALL: Self = Self([true; HttpPart::ALL.len()]);

    /// These.
    #[must_use]
    pub fn of(parts: &[HttpPart]) -> Self {
        let mut all = Self::default();
        parts.iter().for_each(|part| all.0[part.index()] = true);
        all
    }

    /// Whether this is one of them.
    #[must_use]
    pub const fn has(self, part: HttpPart) -> bool {
        self.0[part as usize]
    }
}

/// A key of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name, for logs.
    pub name: String,
    /// What callers send.
    pub key: Secret,
    /// What it allows.
    pub scopes: Vec<ApiScope>,
    /// The only tenant for which it counts.
    pub tenant: Option<String>,
}

impl ApiKey {
    /// Whether it allows this.
    #[must_use]
    pub fn allows(&self, scope: ApiScope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the key is a mask that reports print instead.
    pub(super) fn is_mask(&self) -> bool {
        self.key.is_mask()
    }

    /// `NAME=KEY SCOPE… [tenant=ID]`.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (name, key) = words.next()?.split_once('=')?;
        let mut parsed = Self {
            name: name.to_owned(),
            key: Secret(key.to_owned()),
            scopes: Vec::new(),
            tenant: None,
        };
        for word in words {
            match word.strip_prefix("tenant=") {
                Some(tenant) if parsed.tenant.is_none() && is_tenant_id(tenant) => {
                    parsed.tenant = Some(tenant.to_owned());
                }
                Some(_) => return None,
                None => parsed.scopes.push(ApiScope::named(word)?),
            }
        }
        let is_long = key.len() >= KEY_BYTES_MIN || key == MASK;
        (!name.is_empty() && is_long && !parsed.scopes.is_empty()).then_some(parsed)
    }
}

/// Each is a name, `=`, a key, and what it allows.
impl SettingType for Vec<ApiKey> {
    fn rule() -> Cow<'static, str> {
        "a list of strings \"NAME=KEY SCOPE\" with one or more of the scopes publish, read and admin, and \
         tenant=TENANT for a key of one tenant; a key has 16 or more bytes without spaces"
            .into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        texts.iter().map(|text| ApiKey::parse(text)).collect()
    }

    fn show(&self) -> Option<String> {
        let keys = self.iter().map(|key| {
            let scopes = key.scopes.iter().map(|scope| scope.name());
            let mut words = vec![format!("{}={MASK}", key.name)];
            words.extend(scopes.map(str::to_owned));
            words.extend(key.tenant.iter().map(|tenant| format!("tenant={tenant}")));
            words.join(" ")
        });
        keys.collect::<Vec<_>>().show()
    }
}

/// The address of the admin listener, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminListen(pub Option<SocketAddr>);

impl SettingType for AdminListen {
    fn rule() -> Cow<'static, str> {
        "`none`, or an address and a port, such as 127.0.0.1:8764".into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        match value.as_str()?.trim() {
            NONE => Some(Self(None)),
            text => text.parse().ok().map(|address| Self(Some(address))),
        }
    }

    fn show(&self) -> Option<String> {
        let text = self
            .0
            .map_or(NONE.to_owned(), |address| address.to_string());
        text.show()
    }
}

/// What the ports of clients answer; `None` = what the profile of each says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHttp(Option<HttpParts>);

impl SettingType for ClientHttp {
    fn rule() -> Cow<'static, str> {
        let names: Vec<_> = HttpPart::ALL.iter().map(|part| part.name()).collect();
        format!("a list of {}", names.join(", ")).into()
    }

    fn parse(value: &SettingValue) -> Option<Self> {
        let texts = Vec::<String>::parse(value)?;
        let parts = texts.iter().map(|text| HttpPart::named(text));
        let parts: Vec<_> = parts.collect::<Option<_>>()?;
        Some(Self(Some(HttpParts::of(&parts))))
    }

    fn show(&self) -> Option<String> {
        let parts = self.0?;
        let parts = HttpPart::ALL.iter().filter(|part| parts.has(**part));
        let names: Vec<_> = parts.map(|part| part.name().to_owned()).collect();
        names.show()
    }
}

settings! {
    /// Settings of HTTP.
    pub struct HttpSettings {
        /// Address and port of the admin listener, for the HTTP API, metrics and health; `none` = there
        /// is none. A program that embeds the server has none unless it sets one.
        admin_listen: AdminListen = AdminListen(Some(SocketAddr::new(
            std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN_PORT))), flag = Some("ADDR:PORT|none");
        /// What the ports of clients answer beside WebSocket: health, metrics, notify, api. Not set, it is
        /// `health`, and what the legacy server of a profile answers on its port; in development mode
        /// everything.
        client_http: ClientHttp = ClientHttp(None);
        /// Keys of the HTTP API, each `NAME=KEY SCOPE…`, with the scopes publish, read and admin, and
        /// `tenant=TENANT` for a key of one tenant. Without any, the API is closed, except in development
        /// mode to callers on the same host.
        api_keys: Vec<ApiKey> = Vec::new(), is_secret = true;
        /// Origins whose pages may call the HTTP API; `*` allows all.
        cors_origins: Vec<OriginPattern> = Vec::new();
    }
}

/// The port of the admin listener.
const ADMIN_PORT: u16 = 8764;

impl HttpSettings {
    /// What a listener answers.
    #[must_use]
    pub fn parts_of(&self, listener: &Listener, is_dev: bool) -> HttpParts {
        use HttpPart::{Health, Metrics, Notify};
        let dialect = match &listener.routes {
            Routes::Admin => return HttpParts::ALL,
            Routes::ByPath => None,
            Routes::Profile { dialect, .. } => Some(*dialect),
        };
        match (self.client_http.0, dialect) {
            (Some(parts), _) => parts,
            (None, _) if is_dev => HttpParts::ALL,
            (None, Some(DialectId::Notifications)) => HttpParts::of(&[Health, Metrics, Notify]),
            (None, Some(DialectId::Gateway)) => HttpParts::of(&[Health, Metrics]),
            (None, _) => HttpParts::of(&[Health]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_is_shown_but_for_the_key() {
        let read = |text: &str| Vec::<ApiKey>::parse(&SettingValue::from(text));
        let keys = read("a=0123456789abcdef publish read, b=0123456789abcdeg admin tenant=acme");
        let keys = keys.unwrap();
        assert_eq!(keys[0].scopes, [ApiScope::Publish, ApiScope::Read]);
        assert_eq!(keys[1].tenant.as_deref(), Some("acme"));
        let shown = r#"["a=(secret) publish read", "b=(secret) admin tenant=acme"]"#;
        assert_eq!(keys.show().as_deref(), Some(shown));
        for text in [
            "a=0123456789abcdef",
            "=0123456789abcdef read",
            "a=0123456789abcde read",
            "a=0123456789abcdef write",
            "a=0123456789abcdef read tenant=",
            "a=0123456789abcdef read tenant=a tenant=b",
            "0123456789abcdef read",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_admin_listener_answers_all_and_a_port_of_clients_what_is_set() {
        let mut settings = HttpSettings::default();
        let address = ([127, 0, 0, 1], 1).into();
        let parts = |settings: &HttpSettings, listener: &Listener| {
            let parts = settings.parts_of(listener, false);
            HttpPart::ALL
                .iter()
                .map(|part| parts.has(*part))
                .collect::<Vec<_>>()
        };
        let [by_path, notifications, gateway] = [
            Listener::by_path(address),
            Listener::of(DialectId::Notifications, address),
            Listener::of(DialectId::Gateway, address),
        ];
        assert_eq!(parts(&settings, &by_path), [true, false, false, false]);
        assert_eq!(parts(&settings, &notifications), [true, true, true, false]);
        assert_eq!(parts(&settings, &gateway), [true, true, false, false]);
        assert_eq!(parts(&settings, &Listener::admin(address)), [true; 4]);
        assert_eq!(settings.parts_of(&by_path, true), HttpParts::ALL);
        settings.client_http = ClientHttp::parse(&"notify, api".into()).unwrap();
        assert_eq!(parts(&settings, &gateway), [false, false, true, true]);
        assert_eq!(settings.client_http.show().unwrap(), r#"["notify", "api"]"#);
    }
}
