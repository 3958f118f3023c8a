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
