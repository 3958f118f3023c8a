//! What comes before a session: the PROXY protocol, and the request head, parsed with httparse, checked for an upgrade, and answered when it is
//! rejected.

mod correlation;
pub mod forwarded;
pub mod head;
pub mod proxy_protocol;
pub mod rejection;
pub mod target;

pub use correlation::Correlation;
pub use forwarded::ForwardedForm;
pub use head::{Head, HeadError, UpgradeError, is_host};
pub use target::Target;
