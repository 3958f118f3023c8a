//! Settings of programs on this host that publish through shared memory.

use super::declaration::settings;
use super::value::ByteSize;
use std::path::{Path, PathBuf};

/// The table of these settings.
pub(super) const INGEST_TABLE: &str = "ingest";
/// Where names without a folder are, as with `shm_open`(3).
const SHARED_MEMORY_FOLDER: &str = "/dev/shm";

settings! {
    /// Settings of programs on this host that publish through shared memory.
    pub struct IngestSettings {
        /// Unix socket at which programs on this host get a ring of their own to publish through: a path, or a
        /// name such as `/fanwire`, which is `/dev/shm/fanwire`. Who may open it may publish on every channel;
        /// that is this server's user. Without it, there is none.
        shared_memory: Option<PathBuf> = None,
            rule = Some((|path| path.as_deref().is_none_or(is_socket_path),
                "a path that begins with `/` and ends with a name"));
        /// Group whose members may publish, too: its name in `/etc/group`, or its number.
        group: Option<String> = None;
        /// Programs that may be connected at a time; one more is disconnected.
        sources_max: u32 = 16,
            rule = Some((|count| (1..=128).contains(count), "1 to 128"));
        /// Size of the ring of each of them. A publication takes an eighth of it at most.
        ring_bytes: ByteSize = ByteSize(4 << 20),
            rule = Some((
                |size| size.0.is_power_of_two() && (1 << 16..=1 << 30).contains(&size.0),
                "a power of two from 64 KiB to 1 GiB",
            ));
    }
}

impl IngestSettings {
    /// The path of the socket.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        let path = self.shared_memory.as_ref()?;
        Some(match path.parent() == Some(Path::new("/")) {
            true => Path::new(SHARED_MEMORY_FOLDER).join(path.file_name()?),
            false => path.clone(),
        })
    }
}

fn is_socket_path(path: &Path) -> bool {
    path.is_absolute() && path.file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_in_the_folder_of_shared_memory() {
        for (path, expected) in [
            ("/fanwire", "/dev/shm/fanwire"),
            ("/run/fanwire/ingest.sock", "/run/fanwire/ingest.sock"),
        ] {
            assert!(is_socket_path(Path::new(path)));
            let settings = IngestSettings {
                shared_memory: Some(path.into()),
                ..IngestSettings::default()
            };
            assert_eq!(settings.socket_path(), Some(expected.into()));
        }
        for path in ["", "fanwire", "run/fanwire", "/"] {
            assert!(!is_socket_path(Path::new(path)), "{path}");
        }
    }
}
