//! Where Redis is.

use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use std::fmt;

/// The address of Redis: one server, a server that Sentinels name, or a cluster.
#[derive(Clone)]
pub enum RedisAddress {
    /// One server.
    Server(Box<ConnectionInfo>),
    /// The master of this name, by the Sentinels.
    Sentinels {
        /// Their URLs, without name and password.
        sentinels: Vec<String>,
        /// The name of the master.
        master: String,
        /// How to speak with the master.
        settings: Box<ConnectionInfo>,
    },
    /// A cluster.
    Cluster(Vec<ConnectionInfo>),
}

/// What is allowed.
pub(super) const ADDRESS_RULE: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], \
    redis-sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/MASTER[/DB] or \
    redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT, each with rediss for TLS";

impl fmt::Debug for RedisAddress {
    /// Without password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for RedisAddress {
    /// Without password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(info) => write!(formatter, "{}", info.addr()),
            Self::Sentinels {
                sentinels, master, ..
            } => {
                let hosts = sentinels.iter().filter_map(|url| url.split_once("://"));
                let hosts: Vec<_> = hosts.map(|(_, host)| host).collect();
                write!(formatter, "master `{master}` of {}", hosts.join(","))
            }
            Self::Cluster(nodes) => {
                let hosts: Vec<_> = nodes.iter().map(|node| node.addr().to_string()).collect();
                write!(formatter, "cluster {}", hosts.join(","))
            }
        }
    }
}

impl RedisAddress {
    /// The same with another password.
    #[must_use]
    pub(super) fn with_password(mut self, password: &str) -> Self {
        for info in self.infos() {
            let settings = info.redis_settings().clone().set_password(password);
            *info = info.clone().set_redis_settings(settings);
        }
        self
    }

    /// How to speak with the servers that have publications.
    fn infos(&mut self) -> &mut [ConnectionInfo] {
        match self {
            Self::Server(info) => std::slice::from_mut(info),
            Self::Sentinels { settings, .. } => std::slice::from_mut(settings),
            Self::Cluster(nodes) => nodes,
        }
    }

    /// The names and the passwords.
    #[cfg(test)]
    pub(super) fn logins(mut self) -> Vec<(String, String)> {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let infos = self.infos().iter().map(ConnectionInfo::redis_settings);
        infos
            .map(|settings| (text(settings.username()), text(settings.password())))
            .collect()
    }

    /// Reads an address; `None` if it is not one, see [`ADDRESS_RULE`].
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (is_tls, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis")?),
        };
        let base = if is_tls { "rediss" } else { "redis" };
        // A password may have an `@`, escaped or not: the last one counts.
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), rest),
        };
        let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.iter().any(|host| host.is_empty()) {
            return None;
        }
        match kind {
            "" => Some(Self::Server(Box::new(info(url)?))),
            "-cluster" if path.is_empty() => {
                let nodes = hosts.iter();
                let nodes = nodes.map(|host| info(&format!("{base}://{login}{host}")));
                Some(Self::Cluster(nodes.collect::<Option<_>>()?))
            }
            "-sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, "0"));
                let sentinels = hosts.iter().map(|host| format!("{base}://{host}"));
                let sentinels: Vec<_> = sentinels.collect();
                let are_valid = sentinels.iter().all(|url| info(url).is_some());
                let settings = info(&format!("{base}://{login}{}/{db}", hosts[0]))?;
                (are_valid && !master.is_empty()).then(|| Self::Sentinels {
                    sentinels,
                    master: master.to_owned(),
                    settings: Box::new(settings),
                })
            }
            _ => None,
        }
    }
}

/// The address of a server, with which RESP3 is spoken.
fn info(url: &str) -> Option<ConnectionInfo> {
    let info = url.into_connection_info().ok()?;
    let settings = info.redis_settings().clone();
    let settings = settings.set_protocol(ProtocolVersion::RESP3);
    let settings = settings.set_lib_name("fanwire", env!("CARGO_PKG_VERSION"));
    Some(info.set_redis_settings(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_server_sentinels_or_a_cluster_and_hides_its_password() {
        for (url, expected) in [
            ("redis://h", "h:6379"),
            ("redis://:p%40w@h:7000/2", "h:7000"),
            ("rediss://ann:pw@h", "h:6379"),
            (
                "redis-sentinel://ann:pw@a:1,b:2/main/3",
                "master `main` of a:1,b:2",
            ),
            ("redis-cluster://:pw@a:1,b:2", "cluster a:1,b:2"),
        ] {
            let address = RedisAddress::parse(url).unwrap();
            assert_eq!(
                format!("{address} {address:?}"),
                format!("{expected} {expected}")
            );
        }
        let Some(RedisAddress::Sentinels { settings, .. }) =
            RedisAddress::parse("redis-sentinel://ann:pw@a:1/main/3")
        else {
            panic!();
        };
        let settings = settings.redis_settings();
        assert_eq!((settings.db(), settings.username()), (3, Some("ann")));
        assert_eq!(settings.password(), Some("pw"));
    }

    #[test]
    fn others_are_none() {
        for url in [
            "",
            "h:6379",
            "http://h",
            "redis://",
            "redis://h:port",
            "redis://h/x",
            "redis-cluster://a:1,/",
            "redis-cluster://a:1/2",
            "redis-sentinel://a:1",
            "redis-sentinel://a:1/main/x",
            "redis-other://a:1",
            "unix:///run/redis",
        ] {
            assert!(RedisAddress::parse(url).is_none(), "{url}");
        }
    }
}
