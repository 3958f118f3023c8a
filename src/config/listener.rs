//! Listeners, and the routing of requests to dialects by path and subprotocol.

use super::compression::Compression;
use super::profiles::{PROFILES, Profile};
use crate::base::DialectId;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Paths of a listener with a profile, besides the path of the profile.
const PROFILE_PATHS: [&str; 2] = ["/", "/ws"];
/// The part of a path between the gateway's path and the name of a tenant.
const TENANT: &str = "/tenant/";

/// An address to listen on, and the dialects that it serves.
///
/// ```
/// use fanwire::{DialectId, Listener};
///
/// let listener = Listener::of(DialectId::Monitoring, ([127, 0, 0, 1], 8765).into());
/// assert_eq!(listener.to_string(), "127.0.0.1:8765 (monitoring at /)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose one.
    pub address: SocketAddr,
    /// How requests are routed to dialects.
    pub routes: Routes,
    /// How messages are compressed for clients that offer it.
    pub compression: Compression,
}

/// How requests are routed to dialects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Every dialect at a path of its own.
    ByPath,
    /// One dialect, as on its legacy server.
    Profile {
        /// The dialect.
        dialect: DialectId,
        /// The path of the legacy server, or the one set by the operator.
        path: String,
    },
    /// No dialect: the admin listener.
    Admin,
}

/// The route of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The dialect of the session.
    pub dialect: DialectId,
    /// The subprotocol that selected the dialect, for the answer.
    pub subprotocol: Option<&'a str>,
    /// The tenant that the path names, not decoded.
    pub tenant: Option<&'a str>,
}

impl Listener {
    /// A listener that serves every dialect, each at a path of its own.
    ///
    /// ```
    /// let listener = fanwire::Listener::by_path(([127, 0, 0, 1], 8765).into());
    /// assert_eq!(listener.address.port(), 8765);
    /// ```
    #[must_use]
    pub fn by_path(address: SocketAddr) -> Self {
        Self {
            address,
            routes: Routes::ByPath,
            compression: Compression::Off,
        }
    }

    /// A listener that serves one dialect at the paths of its profile, with its compression.
    ///
    /// ```
    /// use fanwire::{DialectId, Listener};
    ///
    /// let listener = Listener::of(DialectId::Gateway, ([127, 0, 0, 1], 8765).into());
    /// assert_eq!(listener.address.port(), 8765);
    /// ```
    #[must_use]
    pub fn of(dialect: DialectId, address: SocketAddr) -> Self {
        Self {
            address,
            routes: Routes::of(dialect),
            compression: Profile::of(dialect).compression,
        }
    }

    /// The same with another compression.
    ///
    /// ```
    /// use fanwire::{Compression, Listener};
    ///
    /// let listener = Listener::by_path(([127, 0, 0, 1], 8765).into());
    /// let listener = listener.with_compression(Compression::Deflate);
    /// assert_eq!(listener.compression, Compression::Deflate);
    /// ```
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self {
            compression,
            ..self
        }
    }

    /// The admin listener, for HTTP only.
    #[must_use]
    pub(crate) fn admin(address: SocketAddr) -> Self {
        Self {
            address,
            routes: Routes::Admin,
            compression: Compression::Off,
        }
    }

    /// Whether the two cannot be bound in one process.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let is_any_v6 = |address: SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
        let meets = |any: IpAddr, ip: IpAddr| any.is_unspecified() && any.is_ipv4() == ip.is_ipv4();
        // `[::]` accepts IPv4 too (ipv6(7), IPV6_V6ONLY).
        one.port() == two.port()
            && one.port() != 0
            && (one.ip() == two.ip()
                || is_any_v6(one)
                || is_any_v6(two)
                || meets(one.ip(), two.ip())
                || meets(two.ip(), one.ip()))
    }
}

impl Routes {
    /// The routes of a profile, at the path of its legacy server.
    #[must_use]
    pub fn of(dialect: DialectId) -> Self {
        Self::Profile {
            dialect,
            path: Profile::of(dialect).path.into(),
        }
    }

    /// Whether `dialect` is among those that they lead to.
    #[must_use]
    pub fn serve(&self, dialect: DialectId) -> bool {
        match self {
            Self::ByPath => true,
            Self::Profile { dialect: own, .. } => *own == dialect,
            Self::Admin => false,
        }
    }

    /// Routes a request for `path`: by subprotocol `fanwire.<dialect>.v1`, else by path; `None` if
    /// this listener has no dialect for it.
    #[must_use]
    pub fn route<'a>(
        &self,
        path: &'a str,
        subprotocols: impl Iterator<Item = &'a str>,
    ) -> Option<Route<'a>> {
        let mut named = subprotocols.filter_map(named_dialect);
        match self {
            Self::ByPath => {
                let tenant_of = |profile: &Profile| {
                    let has_tenants = profile.has_tenant_paths;
                    has_tenants
                        .then(|| tenant_below(profile.shared_path, path))
                        .flatten()
                };
                let by_path = || {
                    let mut profiles = PROFILES.iter();
                    let exact = profiles.find(|profile| profile.shared_path == path);
                    let below = || PROFILES.iter().find(|profile| tenant_of(profile).is_some());
                    exact.or_else(below).map(|profile| profile.dialect)
                };
                let (dialect, subprotocol) = match named.next() {
                    Some((dialect, subprotocol)) => (dialect, Some(subprotocol)),
                    None => (by_path()?, None),
                };
                Some(Route {
                    dialect,
                    subprotocol,
                    tenant: tenant_of(Profile::of(dialect)),
                })
            }
            Self::Profile { dialect, path: own } => {
                let named: Vec<_> = named.collect();
                let ours = named.iter().find(|(named, _)| named == dialect);
                let tenant = Profile::of(*dialect)
                    .has_tenant_paths
                    .then(|| tenant_below(own, path).or_else(|| tenant_below("/ws", path)));
                let tenant = tenant.flatten();
                let is_ours = path == own || PROFILE_PATHS.contains(&path) || tenant.is_some();
                let speaks = is_ours && (named.is_empty() || ours.is_some());
                speaks.then_some(Route {
                    dialect: *dialect,
                    subprotocol: ours.map(|(_, subprotocol)| *subprotocol),
                    tenant,
                })
            }
            Self::Admin => None,
        }
    }

    /// The path of each dialect, for people.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(&str, DialectId)> {
        match self {
            Self::ByPath => {
                let profiles = PROFILES.iter();
                profiles
                    .map(|profile| (profile.shared_path, profile.dialect))
                    .collect()
            }
            Self::Profile { dialect, path } => vec![(path, *dialect)],
            Self::Admin => Vec::new(),
        }
    }
}

/// The first two listeners that cannot be bound in one process.
#[must_use]
pub fn first_overlap(listeners: &[Listener]) -> Option<(&Listener, &Listener)> {
    let mut pairs = listeners.iter().enumerate().flat_map(|(index, two)| {
        let earlier = listeners[..index].iter();
        earlier.map(move |one| (one, two))
    });
    pairs.find(|(one, two)| one.overlaps(two))
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.routes {
            Routes::ByPath => write!(formatter, "{} (dialects by path)", self.address),
            Routes::Profile { dialect, path } => {
                let name = dialect.name();
                write!(formatter, "{} ({name} at {path})", self.address)
            }
            Routes::Admin => write!(formatter, "{} (admin)", self.address),
        }
    }
}

fn named_dialect(subprotocol: &str) -> Option<(DialectId, &str)> {
    let name = subprotocol.strip_prefix("fanwire.")?.strip_suffix(".v1")?;
    Some((DialectId::named(name)?, subprotocol))
}

/// The tenant of `{base}/tenant/{tenant}`.
fn tenant_below<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    let below = path.strip_prefix(base.trim_end_matches('/'))?;
    let tenant = below.strip_prefix(TENANT)?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DialectId::{Analytics, Assist, Gateway, Monitoring, Notifications};

    const ANALYTICS: &str = "fanwire.analytics.v1";
    const MONITORING: &str = "fanwire.monitoring.v1";

    fn check(routes: &Routes, path: &str, subprotocols: &[&str], expected: Option<DialectId>) {
        let route = routes.route(path, subprotocols.iter().copied());
        let dialect = route.map(|route| route.dialect);
        assert_eq!(dialect, expected, "{routes:?} {path} {subprotocols:?}");
        let named = route.and_then(|route| route.subprotocol);
        assert!(named.is_none_or(|named| subprotocols.contains(&named)));
    }

    #[test]
    fn without_a_profile_the_path_chooses_and_a_subprotocol_overrides_it() {
        let routes = Routes::ByPath;
        check(&routes, "/ws", &[], Some(Gateway));
        check(&routes, "/ws/tenant/t1", &[], Some(Gateway));
        check(&routes, "/ws/connect", &[], Some(Assist));
        check(&routes, "/monitoring", &["x"], Some(Monitoring));
        check(&routes, "/analytics", &[], Some(Analytics));
        check(&routes, "/notifications", &[], Some(Notifications));
        check(&routes, "/ws", &["x", MONITORING], Some(Monitoring));
        check(&routes, "/", &[MONITORING, ANALYTICS], Some(Monitoring));
        for path in ["/", "/wss", "/ws/", "/ws/tenant/", "/ws/tenant/a/b", ""] {
            check(&routes, path, &["fanwire.unknown.v1"], None);
        }
    }

    #[test]
    fn a_profile_speaks_one_dialect_at_its_paths() {
        for dialect in DialectId::ALL {
            let routes = Routes::of(dialect);
            check(&routes, Profile::of(dialect).path, &[], Some(dialect));
            check(&routes, "/", &[], Some(dialect));
            check(&routes, "/ws", &[], Some(dialect));
            check(&routes, "/elsewhere", &[], None);
            let tenants = (dialect == Gateway).then_some(Gateway);
            check(&routes, "/ws/tenant/t1", &[], tenants);
        }
        let analytics = Routes::of(Analytics);
        check(&analytics, "/", &[MONITORING, ANALYTICS], Some(Analytics));
        check(&analytics, "/", &[MONITORING], None);
        check(&analytics, "/monitoring", &[ANALYTICS], None);
        let gateway = Routes::Profile {
            dialect: Gateway,
            path: "/live".into(),
        };
        check(&gateway, "/live", &[], Some(Gateway));
        let route = gateway.route("/live/tenant/t1", std::iter::empty());
        assert_eq!(route.and_then(|route| route.tenant), Some("t1"));
    }

    #[test]
    fn listeners_overlap_when_one_takes_the_other_ones_connections() {
        let overlap = |one: &str, two: &str| {
            let [one, two] = [one, two].map(|address| Listener::by_path(address.parse().unwrap()));
            assert_eq!(one.overlaps(&two), two.overlaps(&one));
            one.overlaps(&two)
        };
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlap("127.0.0.1:80", "0.0.0.0:80"));
        assert!(overlap("[::]:80", "10.0.0.1:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!overlap("0.0.0.0:80", "[::1]:80"));
    }
}
