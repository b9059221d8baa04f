//! Holds the remote key set of one issuer. Readers take no lock, and at most one task fetches at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::disk::DiskCopy;
use super::fetch::JwksFetch;
use super::renewal::{Age, Cause, Renewal, RenewalPolicy};
use super::set::KeySet;
use crate::auth::Algorithm;
use crate::auth::RemoteKeys;
use crate::auth::http::Document;
use crate::auth::http::shown;
use crate::auth::revocation::Revocations;
use crate::clock::{Clock, UnixTime};

/// The shortest `Retry-After`.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// What all issuers share: the clock, the fetcher, the directory of the saved key sets, and the revocations.
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fetcher: Arc<dyn JwksFetch>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) revocations: Arc<Revocations>,
}

/// The state of one issuer's keys, for `/readyz` and `/metrics`.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// The `iss`.
    pub issuer: String,
    /// Usable keys.
    pub keys: usize,
    /// Keys of the last fetched set that were rejected, for any reason of [`super::KeyRejection`].
    pub rejected: usize,
    /// The age of the remote set; `None` if there is none.
    pub age: Option<Duration>,
    /// Fetches that succeeded.
    pub refreshes_ok: u64,
    /// Fetches that failed.
    pub refreshes_failed: u64,
    /// Writes of the set to disk that failed.
    pub saves_failed: u64,
    /// Whether there is at least one usable key.
    pub ready: bool,
}

/// A fetched set.
#[derive(Debug)]
pub(crate) struct Snapshot {
    set: KeySet,
    rejected: usize,
    fetched_at: UnixTime,
    max_age: Option<Duration>,
    usable_until: UnixTime,
}

/// The key set of one endpoint, with everything needed to refresh it.
pub(crate) struct RemoteStore {
    issuer: Arc<str>,
    remote: RemoteKeys,
    algorithms: Vec<Algorithm>,
    policy: RenewalPolicy,
    clock: Arc<dyn Clock>,
    fetcher: Arc<dyn JwksFetch>,
    disk: Option<DiskCopy>,
    /// Allows one write at a time. Otherwise an older set could replace a newer one on disk.
    saving: Mutex<()>,
    current: ArcSwapOption<Snapshot>,
    progress: watch::Sender<Progress>,
}

/// The state of the fetches. Waiting requests watch it.
#[derive(Debug, Default)]
struct Progress {
    running: bool,
    succeeded_at: Option<Instant>,
    failed_at: Option<Instant>,
    demanded_at: Option<Instant>,
    failures_in_a_row: u32,
    succeeded: u64,
    failed: u64,
    saves_failed: u64,
}

/// The outcome of a search for an unknown key, after a fetch if one was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// The set is current: a key that it lacks does not exist.
    Current,
    /// There is no usable set, or the endpoint fails, so the key may exist. Try again after this time.
    Unavailable(Duration),
}

impl RemoteStore {
    /// Creates a store. It starts with the keys that `before` fetched from the same URL, or else with the last good set
    /// on disk. Reading the file blocks.
    pub(crate) fn new(
        issuer: Arc<str>,
        remote: RemoteKeys,
        algorithms: Vec<Algorithm>,
        before: Option<&Arc<Self>>,
        around: &Surroundings,
    ) -> Self {
        let policy = RenewalPolicy {
            refresh: remote.refresh.min(remote.max_stale),
            cooldown: remote.cooldown,
            spread: rand::random_range(0.75..0.9),
        };
        let disk = |directory: &PathBuf| DiskCopy::new(directory, &issuer, &remote.endpoint.url);
        let store = Self {
            policy,
            clock: Arc::clone(&around.clock),
            fetcher: Arc::clone(&around.fetcher),
            disk: around.state.as_ref().map(disk),
            saving: Mutex::new(()),
            current: ArcSwapOption::empty(),
            progress: watch::Sender::new(Progress::default()),
            issuer,
            remote,
            algorithms,
        };
        if !before.is_some_and(|before| store.start_from(before)) {
            store.start_from_disk();
        }
        store
    }

    /// Whether this store has these settings and algorithms.
    pub(crate) fn is(&self, remote: &RemoteKeys, algorithms: &[Algorithm]) -> bool {
        self.remote == *remote && self.algorithms == algorithms
    }

    /// The settings of the endpoint.
    pub(crate) const fn place(&self) -> &RemoteKeys {
        &self.remote
    }

    /// Takes over the keys of `before` if its URL is the same, except those that the current algorithms do not allow.
    ///
    /// Returns whether it did. The set is fetched at once in any case.
    fn start_from(&self, before: &Self) -> bool {
        let before = Some(before).filter(|before| before.remote.endpoint.url == self.remote.endpoint.url);
        let Some(known) = before.and_then(|before| before.current.load_full()) else { return false };
        let parsed = KeySet::parse(known.set.to_json().to_string().as_bytes(), &self.algorithms);
        let taken = parsed.map(|parsed| self.publish(parsed.set, known.rejected, known.fetched_at, known.max_age));
        taken.is_ok()
    }

    fn start_from_disk(&self) {
        let Some(disk) = &self.disk else { return };
        match disk.load(&self.algorithms, self.clock.now()) {
            Ok(saved) => self.publish(saved.set, 0, saved.fetched_at, saved.max_age),
            Err(error) if error.is_absence() => {}
            Err(error) => tracing::warn!(issuer = %self.issuer, %error, "saved key set ignored"),
        }
    }

    /// Returns the current snapshot. [`usable`] tells whether it is still young enough.
    pub(crate) fn load(&self) -> Guard<Option<Arc<Snapshot>>> {
        self.current.load()
    }

    /// Fetches because a token names an unknown key, if the policy allows it, or waits for the fetch in progress.
    ///
    /// One fetch serves all waiting requests. It continues if a waiting request is cancelled.
    pub(crate) async fn demand(self: &Arc<Self>) -> Demand {
        self.begin(Cause::UnknownKey);
        self.settled().await;
        let failing = self.progress.borrow().failures_in_a_row > 0;
        if failing || usable(&self.load(), self.clock.now()).is_none() {
            return Demand::Unavailable(self.retry_after());
        }
        Demand::Current
    }

    /// The time until the policy allows the next fetch; at least 1 s.
    pub(crate) fn retry_after(&self) -> Duration {
        let age = self.age(&self.progress.borrow());
        let wait = |cause| match self.policy.decide(age, cause) {
            Renewal::Fetch => Duration::ZERO,
            Renewal::Wait(wait) => wait,
        };
        wait(Cause::Schedule).min(wait(Cause::UnknownKey)).max(SHORTEST_RETRY)
    }

    /// Keeps the set current while it is polled. A set that is due is fetched at once.
    pub(crate) async fn keep_current(self: Arc<Self>) {
        loop {
            let renewal = self.begin(Cause::Schedule);
            self.settled().await;
            if let Renewal::Wait(wait) = renewal {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Starts a fetch if the policy says so and none is running.
    fn begin(self: &Arc<Self>, cause: Cause) -> Renewal {
        let mut renewal = Renewal::Wait(Duration::ZERO);
        self.progress.send_if_modified(|progress| {
            if progress.running {
                return false;
            }
            renewal = self.policy.decide(self.age(progress), cause);
            let due = renewal == Renewal::Fetch;
            if due {
                progress.start(cause);
            }
            due
        });
        if renewal == Renewal::Fetch {
            tokio::spawn(Attempt { store: Arc::clone(self), fetched: false }.run());
        }
        renewal
    }

    async fn settled(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.progress.subscribe().wait_for(|progress| !progress.running).await;
    }

    async fn fetch(&self) -> Result<(), String> {
        let Document { body, max_age } = self.fetcher.fetch(&self.remote).await.map_err(|error| error.to_string())?;
        let parsed = KeySet::parse(&body, &self.algorithms).map_err(|error| error.to_string())?;
        for rejected in &parsed.rejected {
            tracing::warn!(issuer = %self.issuer, url = shown(&self.remote.endpoint.url), %rejected, "key rejected");
        }
        self.publish(parsed.set, parsed.rejected.len(), self.clock.now(), max_age);
        Ok(())
    }

    fn publish(&self, set: KeySet, rejected: usize, fetched_at: UnixTime, max_age: Option<Duration>) {
        let usable_until = fetched_at.saturating_add(self.remote.max_stale);
        let snapshot = Snapshot { set, rejected, fetched_at, max_age, usable_until };
        self.current.store(Some(Arc::new(snapshot)));
    }

    async fn save(&self) {
        let _one = self.saving.lock().await;
        let (Some(disk), Some(snapshot)) = (self.disk.clone(), self.current.load_full()) else {
            return;
        };
        let write = move || disk.save(&snapshot.set.to_json(), snapshot.fetched_at, snapshot.max_age);
        let result = tokio::task::spawn_blocking(write).await;
        let error = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        tracing::warn!(issuer = %self.issuer, %error, "key set not written to disk");
        self.progress.send_modify(|progress| progress.saves_failed += 1);
    }

    fn age(&self, progress: &Progress) -> Age {
        let since = |at: Option<Instant>| at.map(|at| at.elapsed());
        Age {
            success: since(progress.succeeded_at),
            failure: since(progress.failed_at),
            demand: since(progress.demanded_at),
            failures: progress.failures_in_a_row,
            max_age: self.load().as_ref().and_then(|snapshot| snapshot.max_age),
        }
    }

    /// Returns the state of this store, without the keys of a fixed set.
    pub(crate) fn status(&self) -> KeyStatus {
        let (now, progress, current) = (self.clock.now(), self.progress.borrow(), self.load());
        let keys = usable(&current, now).map_or(0, KeySet::len);
        KeyStatus {
            issuer: self.issuer.to_string(),
            keys,
            rejected: current.as_ref().map_or(0, |snapshot| snapshot.rejected),
            age: current.as_ref().map(|snapshot| now.saturating_since(snapshot.fetched_at)),
            refreshes_ok: progress.succeeded,
            refreshes_failed: progress.failed,
            saves_failed: progress.saves_failed,
            ready: keys > 0,
        }
    }
}

/// Returns the keys of a snapshot, if it is not too old at `now`.
pub(crate) fn usable(snapshot: &Option<Arc<Snapshot>>, now: UnixTime) -> Option<&KeySet> {
    snapshot.as_ref().filter(|snapshot| now < snapshot.usable_until).map(|snapshot| &snapshot.set)
}

impl Progress {
    fn start(&mut self, cause: Cause) {
        self.running = true;
        if cause == Cause::UnknownKey {
            self.demanded_at = Some(Instant::now());
        }
    }

    fn finish(&mut self, fetched: bool) {
        self.running = false;
        if fetched {
            (self.succeeded_at, self.failures_in_a_row) = (Some(Instant::now()), 0);
            self.succeeded += 1;
        } else {
            self.failed_at = Some(Instant::now());
            self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
            self.failed += 1;
        }
    }
}

/// One fetch in progress. Its drop publishes the end even after a panic, so that no request waits forever.
struct Attempt {
    store: Arc<RemoteStore>,
    fetched: bool,
}

impl Attempt {
    async fn run(mut self) {
        let store = Arc::clone(&self.store);
        if let Err(error) = store.fetch().await {
            let url = shown(&store.remote.endpoint.url);
            tracing::warn!(issuer = %store.issuer, url, %error, "key set not fetched");
            return;
        }
        self.fetched = true;
        drop(self);
        store.save().await;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.store.progress.send_modify(|progress| progress.finish(self.fetched));
    }
}
