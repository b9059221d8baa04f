//! What the process holds in memory, and when that is too much.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::limit::{Limit, Limited};

/// The resident memory of this process, as it was a moment ago, and its bound.
#[derive(Debug, Default)]
pub struct Memory {
    /// In bytes; 0: no bound.
    most: AtomicUsize,
    resident: AtomicUsize,
}

/// How often the memory is looked at: it takes a few ten microseconds.
const INTERVAL: Duration = Duration::from_secs(1);

impl Memory {
    pub(super) fn set(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.look();
    }

    /// Keeps the figure current until `stop` turns true or its sender is gone.
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
                    "memory is above limits.memory: new connections and flights are refused"
                );
            } else if was && !short {
                tracing::info!("memory is below limits.memory again");
            }
        }
    }

    /// Whether there is room for anything new.
    ///
    /// # Errors
    /// Where more is held than may be.
    pub fn check(&self) -> Result<(), Limited> {
        let most = self.most();
        if most > 0 && self.resident.load(Ordering::Relaxed) > most {
            return Err(Limited::by(Limit::Memory));
        }
        Ok(())
    }

    /// The bound in bytes; 0: none.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn look(&self) {
        if self.most() > 0 {
            // What cannot be read is no reason to refuse anybody.
            self.resident.store(resident().unwrap_or_default(), Ordering::Relaxed);
        }
    }
}

/// Bytes of this process that are in memory (proc(5)).
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}
