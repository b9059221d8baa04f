//! The tasks that keep key sets current.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::TokenVerifier;
use super::keys::store::RemoteStore;

/// One task for each remote key set of the verifier in use; they end with this.
#[derive(Default)]
pub struct Renewals(Vec<Renewal>);

struct Renewal {
    store: Arc<RemoteStore>,
    task: AbortHandle,
}

impl Renewals {
    /// From here on it is the sets of `verifier` that are kept current: the first fetch of a new one is at once, one
    /// that was kept current already goes on as it was, and of those that are gone nothing is fetched any more.
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
