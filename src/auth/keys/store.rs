//! The remote key set of one issuer: swapped whole, read without a lock, fetched by one task at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::disk::DiskCopy;
use super::fetch::{FetchedKeys, JwksFetch};
use super::renewal::{Age, Cause, Renewal, RenewalPolicy};
use super::set::{KeySet, RejectedKey};
use crate::auth::Algorithm;
use crate::auth::RemoteKeys;
use crate::clock::{Clock, UnixTime};

/// The shortest `Retry-After`.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// What every issuer shares: the time, the network, the directory of the last good sets.
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fetcher: Arc<dyn JwksFetch>,
    pub(crate) state: Option<PathBuf>,
}

/// How the keys of one issuer stand, for `/readyz` and `/metrics`.
#[derive(Clone, Debug)]
pub struct KeyStatus {
    /// The `iss`.
    pub issuer: String,
    /// Keys in use now.
    pub keys: usize,
    /// Keys of the last fetched set that are not used, for any reason of [`super::KeyRejection`].
    pub rejected: usize,
    /// Since the remote set was fetched; `None` where there is none.
    pub age: Option<Duration>,
    /// Fetches that gave a set.
    pub refreshes_ok: u64,
    /// Fetches that gave none.
    pub refreshes_failed: u64,
    /// Writes of the set to disk that failed.
    pub saves_failed: u64,
    /// Whether there is a key to check tokens with.
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

/// The set of one endpoint, and how it is kept current.
pub(crate) struct RemoteStore {
    issuer: Arc<str>,
    remote: RemoteKeys,
    algorithms: Vec<Algorithm>,
    policy: RenewalPolicy,
    clock: Arc<dyn Clock>,
    fetcher: Arc<dyn JwksFetch>,
    disk: Option<DiskCopy>,
    /// One write at a time, or an older set could end up above a newer one.
    saving: Mutex<()>,
    current: ArcSwapOption<Snapshot>,
    progress: watch::Sender<Progress>,
}

/// What the fetches did so far; waiting requests watch it.
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

/// What looking for an unknown key came to, after a fetch where one was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// The set is as current as it may be: what it lacks does not exist.
    Current,
    /// No telling: there is no set, or the endpoint fails. Ask again after this.
    Unavailable(Duration),
}

impl RemoteStore {
    /// A store that starts from what `before` has of the same endpoint, else from the last good set on disk, where
    /// `state` has one young enough. Blocks for the file.
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
        let disk = |directory: &PathBuf| DiskCopy::new(directory, &issuer, &remote.url);
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

    /// Whether this is the store of `remote` and `algorithms`.
    pub(crate) fn is(&self, remote: &RemoteKeys, algorithms: &[Algorithm]) -> bool {
        self.remote == *remote && self.algorithms == algorithms
    }

    /// Where its set comes from.
    pub(crate) const fn place(&self) -> &RemoteKeys {
        &self.remote
    }

    /// Takes over the set of the same endpoint, as far as the algorithms of now allow; a fetch comes at once anyway.
    fn start_from(&self, before: &Self) -> bool {
        let before = Some(before).filter(|before| before.remote.url == self.remote.url);
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
            Err(error) => tracing::warn!(issuer = %self.issuer, %error, "kept key set ignored"),
        }
    }

    /// The current snapshot; [`usable`] says whether it may still be used.
    pub(crate) fn load(&self) -> Guard<Option<Arc<Snapshot>>> {
        self.current.load()
    }

    /// Fetches because a token names an unknown key, where the policy allows it; joins a fetch under way.
    ///
    /// However many requests wait, one fetch serves them, and none is ended because a request is.
    pub(crate) async fn demand(self: &Arc<Self>) -> Demand {
        self.begin(Cause::UnknownKey);
        self.settled().await;
        let failing = self.progress.borrow().failures_in_a_row > 0;
        if failing || usable(&self.load(), self.clock.now()).is_none() {
            return Demand::Unavailable(self.retry_after());
        }
        Demand::Current
    }

    /// The time to the next fetch that the policy allows; at least 1 s.
    pub(crate) fn retry_after(&self) -> Duration {
        let age = self.age(&self.progress.borrow());
        let wait = |cause| match self.policy.decide(age, cause) {
            Renewal::Fetch => Duration::ZERO,
            Renewal::Wait(wait) => wait,
        };
        wait(Cause::Schedule).min(wait(Cause::UnknownKey)).max(SHORTEST_RETRY)
    }

    /// Keeps the set current for as long as it is polled; the first fetch is at once.
    pub(crate) async fn keep_current(self: Arc<Self>) {
        loop {
            let renewal = self.begin(Cause::Schedule);
            self.settled().await;
            if let Renewal::Wait(wait) = renewal {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Starts a fetch where the policy says so and none is running.
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
        let FetchedKeys { body, max_age } =
            self.fetcher.fetch(&self.remote).await.map_err(|error| error.to_string())?;
        let parsed = KeySet::parse(&body, &self.algorithms).map_err(|error| error.to_string())?;
        for RejectedKey { index, kid, reason } in &parsed.rejected {
            tracing::warn!(issuer = %self.issuer, index, kid = ?kid, %reason, "key not used");
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

    /// How this store stands; keys of a fixed set are not counted.
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

/// The keys of a snapshot, where it is not too old at `now`.
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

/// One fetch under way. However it ends, a panic included, its end is published, or requests would wait for ever.
struct Attempt {
    store: Arc<RemoteStore>,
    fetched: bool,
}

impl Attempt {
    async fn run(mut self) {
        let store = Arc::clone(&self.store);
        if let Err(error) = store.fetch().await {
            tracing::warn!(issuer = %store.issuer, %error, "key set not fetched");
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
