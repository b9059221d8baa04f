//! Tasks that refresh remote key sets and the list of revocations.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::keys::store::RemoteStore;
use super::{RevocationSettings, TokenVerifier};

/// Runs one task per remote key set of the current verifier, and one for the list of revocations. Dropping it ends the
/// tasks.
#[derive(Default)]
pub struct Renewals {
    keys: Vec<Renewal<RemoteStore>>,
    list: Option<Renewal<RevocationSettings>>,
}

struct Renewal<T> {
    of: Arc<T>,
    task: AbortHandle,
}

impl Renewals {
    /// Keeps the key sets and the revocations of `verifier` current from now on.
    ///
    /// A new set is fetched at once, a set that was already refreshed continues unchanged, and a set that `verifier`
    /// does not have is no longer fetched.
    pub fn follow(&mut self, verifier: &TokenVerifier) {
        self.keys.retain(|renewal| verifier.remotes().any(|store| Arc::ptr_eq(store, &renewal.of)));
        for store in verifier.remotes() {
            if !self.keys.iter().any(|renewal| Arc::ptr_eq(store, &renewal.of)) {
                let task = tokio::spawn(Arc::clone(store).keep_current()).abort_handle();
                self.keys.push(Renewal { of: Arc::clone(store), task });
            }
        }
        let revocations = verifier.revocations();
        let wanted = revocations.settings();
        if self.list.as_ref().map(|list| Arc::as_ptr(&list.of)) != wanted.as_ref().map(Arc::as_ptr) {
            self.list = wanted.map(|of| {
                let task = tokio::spawn(Arc::clone(revocations).keep_current(Arc::clone(&of))).abort_handle();
                Renewal { of, task }
            });
        }
    }
}

impl<T> Drop for Renewal<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
