//! The rules: who may do what, who hears what. No bytes, no sockets, no clock.
//!
//! [`Broker::step`] takes a command and the time and tells its effects as values; the shard carries
//! them out. One broker per shard knows the sessions of that shard alone.

mod channels;
mod command;
mod effect;
mod event;
pub mod filters;
mod rate;
mod session;
mod step;
mod subscriptions;

pub use channels::{Audience, Channel};
pub use command::{Command, Publication};
pub use effect::Effect;
pub use event::{Event, Refusal, SessionView};
pub use step::Broker;
