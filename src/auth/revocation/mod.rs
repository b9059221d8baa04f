//! Revokes tokens before they expire: a list that is polled, and revocations that an operator pushes.
//!
//! [`Revocations`] lasts as long as the process, across reloads. A token is looked up when it is verified and, if it was
//! verified before, once after each change. Waiting requests are notified of a change through
//! [`Revocations::changes`].

mod list;
mod marks;
mod poll;
mod pushed;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::error::{InvalidReason, TokenError};
use super::http::Endpoint;
use super::principal::Principal;
use crate::clock::{Clock, UnixTime};
use crate::secret::Secret;
use pushed::Pushed;

pub use list::{List, ListError};
pub(crate) use marks::TokenMarks;
pub use pushed::Push;

/// `[revocation]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationSettings {
    /// Where the list is; `None` if revocations are only pushed.
    pub source: Option<RevocationSource>,
    /// The list as it was read from the file together with the configuration.
    pub first: Option<Arc<List>>,
    /// The time between two reads of the list; 1 s to 1 h.
    pub interval: Duration,
    /// The secret of `POST /revocations` on the admin port; `None` disables it.
    pub secret: Option<Secret>,
    /// Whether that is accepted from other hosts.
    pub remote_push: bool,
    /// How long a pushed revocation lasts if it does not say; 1 min to 365 d.
    pub keep: Duration,
}

/// Where the list of revocations is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationSource {
    /// A file.
    File(PathBuf),
    /// An HTTP endpoint.
    Url(Endpoint),
}

/// Every revocation, and the settings by which they are kept current.
pub struct Revocations {
    clock: Arc<dyn Clock>,
    settings: ArcSwapOption<RevocationSettings>,
    /// `None` until the list was read for the first time: until then no token is accepted.
    listed: ArcSwapOption<List>,
    pushed: Pushed,
    reading: Mutex<Reading>,
    /// Increases after each change. It starts above 0, the generation of a principal that was never looked up.
    generation: AtomicU64,
    changes: watch::Sender<u64>,
}

/// The reads of the list so far.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    read_at: Option<UnixTime>,
    succeeded: u64,
    failed: u64,
    failing: bool,
}

/// The state of the revocations, for `/readyz` and `/metrics`.
#[derive(Clone, Copy, Debug)]
pub struct RevocationStatus {
    /// Whether the list was never read, so that no token is accepted.
    pub missing: bool,
    /// Whether the last read failed. The list of the read before stays in use.
    pub failing: bool,
    /// The age of the list; `None` without one.
    pub age: Option<Duration>,
    /// Revocations of the list.
    pub listed: usize,
    /// Pushed revocations, including those that are over since the last push.
    pub pushed: usize,
    /// Reads that succeeded.
    pub reads_ok: u64,
    /// Reads that failed.
    pub reads_failed: u64,
}

/// Why pushed revocations are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The body is not a list of revocations.
    #[error(transparent)]
    List(#[from] ListError),
    /// There are too many pushed revocations.
    #[error("more than 10000 pushed revocations, or 16 MiB of them: put them into the list")]
    TooMany,
}

/// The time after which a client may try again while the list was never read.
const RETRY: Duration = Duration::from_secs(1);

impl Revocations {
    /// Creates a set without a list, with the pushed revocations that were saved in `state`. Blocks.
    pub(crate) fn new(clock: Arc<dyn Clock>, state: Option<&Path>) -> Self {
        let pushed = Pushed::new(state, clock.now());
        Self {
            clock,
            settings: ArcSwapOption::empty(),
            listed: ArcSwapOption::from_pointee(List::default()),
            pushed,
            reading: Mutex::default(),
            generation: AtomicU64::new(1),
            changes: watch::Sender::new(1),
        }
    }

    /// Applies `[revocation]`. A list that was read stays in use until the new one is read, or none is configured.
    pub fn configure(&self, mut settings: Option<RevocationSettings>) {
        let first = settings.as_mut().and_then(|settings| settings.first.take());
        let has_source = |settings: Option<&RevocationSettings>| settings.is_some_and(|of| of.source.is_some());
        let had_list = has_source(self.settings.load().as_deref());
        let has_list = has_source(settings.as_ref());
        if self.settings.load().as_deref() != settings.as_ref() {
            self.settings.store(settings.map(Arc::new));
        }
        match first {
            Some(list) => {
                self.publish(Some(list));
                self.read(true);
            }
            None if had_list && !has_list => self.publish(Some(Arc::default())),
            None if has_list && !had_list => self.publish(None),
            None => {}
        }
    }

    /// Returns the current settings.
    pub fn settings(&self) -> Option<Arc<RevocationSettings>> {
        self.settings.load_full()
    }

    /// Notifies of each change, with its number.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Rejects a caller whose token is revoked, or every caller if the list was never read.
    pub(super) fn check(&self, principal: &Principal) -> Result<(), TokenError> {
        let generation = self.generation.load(Ordering::Acquire);
        if principal.unrevoked_at() == generation {
            return Ok(());
        }
        let listed = self.listed.load();
        let listed = listed.as_ref().ok_or(TokenError::Unavailable { retry_after: RETRY })?;
        let (marks, now) = (principal.marks(), self.clock.now());
        if listed.index.revokes(marks, now) || self.pushed.revokes(marks, now) {
            return Err(InvalidReason::Revoked.into());
        }
        principal.set_unrevoked_at(generation);
        Ok(())
    }

    /// Adds the revocations of a list for `keep`, unless they end earlier. Blocks: it saves them.
    ///
    /// # Errors
    /// The text is not a list, or there are too many; nothing has changed then.
    pub fn push(&self, list: &[u8], keep: Duration) -> Result<Push, PushError> {
        // During an upgrade, what the other process has saved must not be overwritten.
        self.read_saved();
        let push = self.pushed.push(list, keep, self.clock.now())?;
        self.changed();
        Ok(push)
    }

    /// Adds the pushed revocations that another process has saved: during an upgrade two run. Blocks.
    pub fn read_saved(&self) {
        if self.pushed.read_saved(self.clock.now()) {
            self.changed();
        }
    }

    /// Returns the state of the list; `None` if none is configured and none was pushed.
    pub fn status(&self) -> Option<RevocationStatus> {
        let settings = self.settings.load();
        let has_list = settings.as_ref()?.source.is_some();
        let (listed, reading) = (self.listed.load(), *self.reading());
        Some(RevocationStatus {
            missing: listed.is_none(),
            failing: has_list && reading.failing,
            age: reading.read_at.filter(|_| has_list).map(|at| self.clock.now().saturating_since(at)),
            listed: listed.as_ref().map_or(0, |list| list.index.len()),
            pushed: self.pushed.len(),
            reads_ok: reading.succeeded,
            reads_failed: reading.failed,
        })
    }

    /// Uses this list, if it differs from the last one; `None` if there is one that was never read.
    fn publish(&self, list: Option<Arc<List>>) {
        if *self.listed.load() != list {
            self.listed.store(list);
            self.changed();
        }
    }

    /// Counts a change, after it was published: who sees the new number sees the change.
    fn changed(&self) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.changes.send_replace(generation);
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
