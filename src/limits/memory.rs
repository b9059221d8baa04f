//! Measures the process's resident memory against its limit.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::limit::{Limit, Limited};

/// The last measured resident memory, and its limit.
#[derive(Debug, Default)]
pub struct Memory {
    /// The limit in bytes; 0 means no limit.
    most: AtomicUsize,
    resident: AtomicUsize,
}

/// How often memory is measured, which takes tens of microseconds.
const INTERVAL: Duration = Duration::from_secs(1);

impl Memory {
    pub(super) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.look();
    }

    /// Measures memory every second until `stop` turns true or its sender is gone.
    pub async fn watch(&self, mut stop: watch::Receiver<bool>) {
        let mut short = false;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(INTERVAL) => self.look(),
            }
            let was = std::mem::replace(&mut short, self.check().is_err());
            if short && !was {
                let (resident, most) = (self.resident.load(Ordering::Relaxed), self.most());
                tracing::warn!(
                    resident,
                    most,
                    "memory is over limits.memory: rejecting new connections and requests to Electric"
                );
            } else if was && !short {
                tracing::info!("memory is under limits.memory again");
            }
        }
    }

    /// Checks whether there is memory for anything new.
    ///
    /// # Errors
    /// If resident memory is over the limit.
    pub fn check(&self) -> Result<(), Limited> {
        let most = self.most();
        if most > 0 && self.resident.load(Ordering::Relaxed) > most {
            return Err(Limited::by(Limit::Memory));
        }
        Ok(())
    }

    /// The limit in bytes; 0 means no limit.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn look(&self) {
        if self.most() > 0 {
            // If it cannot be read, nothing is rejected.
            self.resident.store(resident().unwrap_or_default(), Ordering::Relaxed);
        }
    }
}

/// Returns how many bytes this process may use: those of the machine, or of its control groups if that is less
/// (cgroups(7)). `None` if neither can be read.
pub fn available() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let folders = Path::new(group).ancestors().map(|group| root.join(group));
    let limits =
        folders.filter_map(|folder| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok());
    limits.chain(kibibytes("/proc/meminfo", "MemTotal:")).min()
}

/// Reads the resident memory of this process in bytes (proc(5)).
fn resident() -> Option<usize> {
    kibibytes("/proc/self/status", "VmRSS:")
}

/// Reads a line such as `VmRSS:  1234 kB`, and returns the number in bytes.
fn kibibytes(file: &str, name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}
