//! The protocols of clients: text to commands, events and publications to text.
//!
//! A dialect is one folder. It knows the broker's words and its own, no other dialect, no table and
//! no socket. [`of`] finds a dialect by its id.

mod gateway;
mod monitoring;

use crate::base::DialectId;
use crate::broker::{Command, Event, Publication, Refusal};
use crate::json::Object;

/// One protocol.
pub trait Dialect: Sync {
    /// Reads a message; `scratch` holds what the command borrows and the message does not contain.
    ///
    /// # Errors
    /// Why the message says nothing that this dialect knows.
    fn decode<'a>(
        &self,
        message: &Object<'a>,
        scratch: &'a mut String,
    ) -> Result<Command<'a>, Refusal>;

    /// Appends the message that tells `event`; appends nothing if this dialect does not tell it.
    fn event(&self, event: &Event<'_>, output: &mut Vec<u8>);

    /// Appends the message that carries `publication`.
    fn publication(&self, publication: &Publication<'_>, output: &mut Vec<u8>);
}

/// The dialect with that id.
#[must_use]
pub fn of(id: DialectId) -> &'static dyn Dialect {
    match id {
        DialectId::Gateway => &gateway::Gateway,
        DialectId::Monitoring => &monitoring::Monitoring,
        _ => &gateway::Gateway,
    }
}

/// The dialect that a request asks for: by subprotocol `fanwire.<dialect>.v1`, else by path.
#[must_use]
pub fn route<'a>(
    path: &str,
    subprotocols: impl Iterator<Item = &'a str>,
) -> Option<(DialectId, Option<&'a str>)> {
    let mut subprotocols = subprotocols;
    let named = subprotocols.find_map(|subprotocol| {
        let name = subprotocol.strip_prefix("fanwire.")?.strip_suffix(".v1")?;
        let dialect = DialectId::named(name)?;
        Some((dialect, Some(subprotocol)))
    });
    named.or_else(|| {
        let dialect = match path {
            "/ws" => DialectId::Gateway,
            "/monitoring" => DialectId::Monitoring,
            _ => return None,
        };
        Some((dialect, None))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, subprotocols: &[&str], expected: Option<DialectId>) {
        let routed = route(path, subprotocols.iter().copied());
        assert_eq!(routed.map(|(dialect, _)| dialect), expected, "{path}");
    }

    #[test]
    fn a_subprotocol_overrides_the_path() {
        check("/ws", &[], Some(DialectId::Gateway));
        check("/monitoring", &["x"], Some(DialectId::Monitoring));
        let monitoring = "fanwire.monitoring.v1";
        check("/ws", &["x", monitoring], Some(DialectId::Monitoring));
        check("/", &[monitoring], Some(DialectId::Monitoring));
        check("/elsewhere", &["fanwire.unknown.v1"], None);
    }
}
