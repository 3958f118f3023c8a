//! Counters of the programs on this host that publish through shared memory.

use super::label::{Label, label};
use super::limits::INGEST_NAMES_MAX;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The name under which sources are counted when there are too many names.
const OTHER: &str = "__other__";

label! {
    /// Why a publication of a source was rejected.
    IngestRejection {
        /// The record is no publication.
        Record = "record",
        /// The data are not JSON, or nested too deep.
        Data = "data",
        /// The channel or the type is empty, too long, or has control characters.
        Name = "name",
        /// It is not for this tenant, or not for all tenants.
        Tenant = "tenant",
        /// The session that it excepts is none.
        Target = "target",
        /// The server ends.
        Stopped = "stopped",
    }
}

label! {
    /// Why a program was disconnected at once.
    SourceRejection {
        /// There are as many as may be.
        Full = "full",
        /// The system has not made a ring for it.
        System = "system",
    }
}

/// Counters of all sources. Those of a name stay when its last source is gone.
///
/// All accesses are relaxed: the values are independent, and no other data is published through them.
#[derive(Debug, Default)]
pub struct IngestCounters {
    names: Mutex<Vec<Arc<SourceCounters>>>,
    rejected: [AtomicU64; SourceRejection::ALL.len()],
}

/// Counters of the sources of one name.
#[derive(Debug)]
pub struct SourceCounters {
    name: Box<str>,
    connected: AtomicU64,
    publications: AtomicU64,
    bytes: AtomicU64,
    missed_bytes: AtomicU64,
    rejected: [AtomicU64; IngestRejection::ALL.len()],
}

impl IngestCounters {
    /// The counters of a name, and one more source of it.
    #[must_use]
    pub fn connect(&self, name: &str) -> Arc<SourceCounters> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match names.iter().any(|known| &*known.name == name) {
            false if names.len() + 1 >= INGEST_NAMES_MAX => OTHER,
            _ => name,
        };
        let known = names.iter().find(|known| &*known.name == name).cloned();
        let counters = known.unwrap_or_else(|| {
            let made = Arc::new(SourceCounters::new(name));
            names.push(Arc::clone(&made));
            made
        });
        counters.connected.fetch_add(1, Ordering::Relaxed);
        counters
    }

    /// A program was disconnected at once.
    pub fn reject(&self, reason: SourceRejection) {
        self.rejected[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    #[must_use]
    pub fn rejected(&self, reason: SourceRejection) -> u64 {
        self.rejected[reason.index()].load(Ordering::Relaxed)
    }

    /// The counters of all names.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<SourceCounters>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }
}

impl SourceCounters {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            connected: AtomicU64::new(0),
            publications: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            missed_bytes: AtomicU64::new(0),
            rejected: Default::default(),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sources that are connected.
    #[must_use]
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// One of them is gone.
    pub fn disconnect(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// A publication of so many bytes was accepted.
    pub fn accept(&self, bytes: usize) {
        self.publications.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Publications that were accepted, and their bytes.
    #[must_use]
    pub fn accepted(&self) -> (u64, u64) {
        let publications = self.publications.load(Ordering::Relaxed);
        (publications, self.bytes.load(Ordering::Relaxed))
    }

    /// A publication was rejected.
    pub fn reject(&self, reason: IngestRejection) {
        self.rejected[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    #[must_use]
    pub fn rejected(&self, reason: IngestRejection) -> u64 {
        self.rejected[reason.index()].load(Ordering::Relaxed)
    }

    /// A source has overwritten what was not read.
    pub fn miss(&self, bytes: u64) {
        self.missed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes that were.
    #[must_use]
    pub fn missed_bytes(&self) -> u64 {
        self.missed_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_apart_until_there_are_too_many() {
        let counters = IngestCounters::default();
        for name in 0..INGEST_NAMES_MAX + 3 {
            counters.connect(&format!("program{name}")).accept(10);
        }
        counters.connect("program0").disconnect();
        let names = counters.names();
        assert_eq!(names.len(), INGEST_NAMES_MAX);
        assert_eq!(names[0].name(), "program0");
        assert_eq!((names[0].connected(), names[0].accepted()), (1, (1, 10)));
        let other = names.last().unwrap();
        assert_eq!(other.name(), OTHER);
        assert_eq!((other.connected(), other.accepted()), (4, (4, 40)));
    }
}
