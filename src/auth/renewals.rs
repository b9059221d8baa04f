//! Tasks that refresh remote key sets.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::TokenVerifier;
use super::keys::store::RemoteStore;

/// Runs one task per remote key set of the current verifier. Dropping it ends the tasks.
#[derive(Default)]
pub struct Renewals(Vec<Renewal>);

struct Renewal {
    store: Arc<RemoteStore>,
    task: AbortHandle,
}

impl Renewals {
    /// Keeps the key sets of `verifier` current from now on.
    ///
    /// A new set is fetched at once, a set that was already refreshed continues unchanged, and a set that `verifier`
    /// does not have is no longer fetched.
    pub fn follow(&mut self, verifier: &TokenVerifier) {
        self.0.retain(|renewal| verifier.remotes().any(|store| Arc::ptr_eq(store, &renewal.store)));
        for store in verifier.remotes() {
            if !self.0.iter().any(|renewal| Arc::ptr_eq(store, &renewal.store)) {
                let task = tokio::spawn(Arc::clone(store).keep_current()).abort_handle();
                self.0.push(Renewal { store: Arc::clone(store), task });
            }
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}
