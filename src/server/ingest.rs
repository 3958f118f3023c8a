//! Makes the way for programs on this host that publish through shared memory.

use super::error::StartError;
use crate::base::ProcessState;
use crate::base::now::Clock;
use crate::config::IngestSettings;
use crate::ingest::{Ingest, IngestParts, SourceLimits, bind as bind_at};
use crate::shard::Publisher;
use fanwire_ring::shared::RingListener;
use std::fs;
use std::sync::Arc;

/// The groups of this host and their numbers: `NAME:PASSWORD:NUMBER:MEMBERS` (group(5)).
const GROUPS: &str = "/etc/group";

/// The socket, if the settings have one.
pub(super) fn bind(settings: &IngestSettings) -> Result<Option<RingListener>, StartError> {
    let Some(path) = settings.socket_path() else {
        return Ok(None);
    };
    let group = settings.group.as_deref().map(group).transpose()?;
    let listener = bind_at(&path, group).map_err(|error| {
        let path = path.display();
        StartError::Other(format!(
            "cannot listen at {path} (ingest.shared_memory): {error}"
        ))
    })?;
    Ok(Some(listener))
}

/// Starts to read what programs publish.
pub(super) fn start(
    listener: Option<RingListener>,
    settings: &IngestSettings,
    (publisher, process_state): (&Arc<Publisher>, &Arc<ProcessState>),
    clock: Clock,
) -> Result<Option<Ingest>, StartError> {
    let Some(listener) = listener else {
        return Ok(None);
    };
    let parts = IngestParts {
        publisher: Arc::clone(publisher),
        process_state: Arc::clone(process_state),
        clock,
        limits: SourceLimits {
            sources_max: usize::try_from(settings.sources_max).unwrap_or(usize::MAX),
            ring_bytes: settings.ring_bytes.as_u32(),
        },
    };
    let started = Ingest::start(listener, parts);
    let started = started.map_err(|error| StartError::Other(error.to_string()))?;
    if let Some(path) = settings.socket_path() {
        tracing::info!(
            target: "fanwire::server", path = %path.display(),
            "listening for programs that publish through shared memory"
        );
    }
    Ok(Some(started))
}

/// The number of a group.
fn group(name: &str) -> Result<u32, StartError> {
    let in_file = || {
        let groups = fs::read_to_string(GROUPS).ok()?;
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == name;
            found.then(|| fields.nth(1)?.parse().ok()).flatten()
        })
    };
    let number = name.parse().ok().or_else(in_file);
    number.ok_or_else(|| {
        StartError::Other(format!(
            "unknown group `{name}` (ingest.group): it is not in {GROUPS}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group("root").ok(), Some(0));
        assert_eq!(group("4711").ok(), Some(4711));
        let error = group("no such group").unwrap_err().to_string();
        assert!(error.contains("unknown group `no such group`"), "{error}");
    }
}
