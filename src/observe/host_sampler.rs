//! Load of the host: processor, memory, disks, network.

use serde_json::json;
use sysinfo::{Disks, Networks, System};

/// Samples the host's load. It holds memory only between samples of one series.
#[derive(Debug, Default)]
pub struct HostSampler {
    sources: Option<Sources>,
}

#[derive(Debug)]
struct Sources {
    system: System,
    disks: Disks,
    networks: Networks,
}

impl HostSampler {
    /// A sample as JSON: `{"cpu":{percent,cores},"memory":{total_bytes,used_bytes,percent},
    /// "disk":{…},"network":{received_bytes,sent_bytes}}`. The processor's percentage and the
    /// network's bytes cover the time since the previous sample; the first sample of a series takes
    /// [`sysinfo::MINIMUM_CPU_UPDATE_INTERVAL`] to measure over.
    ///
    /// # Errors
    /// When the host does not provide the data.
    pub fn sample(&mut self) -> Result<String, sysinfo::Error> {
        let mut sources = match self.sources.take() {
            Some(sources) => sources,
            None => Sources::open()?,
        };
        let Sources {
            system,
            disks,
            networks,
        } = &mut sources;
        system.refresh_cpu_usage();
        system.refresh_memory();
        disks.refresh(true);
        networks.refresh(true);
        let disk_total: u64 = disks.iter().map(sysinfo::Disk::total_space).sum();
        let disk_free: u64 = disks.iter().map(sysinfo::Disk::available_space).sum();
        let received: u64 = networks.values().map(sysinfo::NetworkData::received).sum();
        let sent: u64 = networks
            .values()
            .map(sysinfo::NetworkData::transmitted)
            .sum();
        let sample = json!({
            "cpu": {
                "percent": rounded(f64::from(system.global_cpu_usage())),
                "cores": system.cpus().len(),
            },
            "memory": usage(system.total_memory(), system.used_memory()),
            "disk": usage(disk_total, disk_total.saturating_sub(disk_free)),
            "network": {"received_bytes": received, "sent_bytes": sent},
        });
        self.sources = Some(sources);
        Ok(sample.to_string())
    }

    /// Ends a series of samples and releases its memory.
    pub fn release(&mut self) {
        self.sources = None;
    }
}

impl Sources {
    fn open() -> Result<Self, sysinfo::Error> {
        let mut system = System::new()?;
        system.refresh_cpu_usage();
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        Ok(Self {
            system,
            disks: Disks::new_with_refreshed_list()?,
            networks: Networks::new_with_refreshed_list()?,
        })
    }
}

fn usage(total_bytes: u64, used_bytes: u64) -> serde_json::Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage with one decimal needs no more"
    )]
    let percent = if total_bytes == 0 {
        0.0
    } else {
        rounded(used_bytes as f64 / total_bytes as f64 * 100.0)
    };
    json!({"total_bytes": total_bytes, "used_bytes": used_bytes, "percent": percent})
}

fn rounded(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_four_parts_and_is_plausible() {
        let mut host = HostSampler::default();
        let sample: serde_json::Value = serde_json::from_str(&host.sample().unwrap()).unwrap();
        let memory = &sample["memory"];
        let (total, used) = (&memory["total_bytes"], &memory["used_bytes"]);
        assert!(
            used.as_u64().unwrap() > 0 && used.as_u64() < total.as_u64(),
            "{sample}"
        );
        assert!(sample["cpu"]["cores"].as_u64().unwrap() > 0, "{sample}");
        let percent = sample["disk"]["percent"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&percent), "{sample}");
        assert!(sample["network"]["sent_bytes"].is_u64(), "{sample}");
    }
}
