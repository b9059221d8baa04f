//! Revocations that an operator pushes. With a state folder they outlive the process, and an upgrade's two processes
//! share them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::list::{self, Index, MAX_LIST_BYTES, Revocation, Target, is_in_force};
use super::{PushError, TokenMarks};
use crate::auth::state_file::{StateError, StateFile, Version};
use crate::clock::UnixTime;

/// The most pushed revocations; more belong into the list.
pub(super) const MAX_PUSHED: usize = 10_000;

/// The name of the file in the state folder. It has the form of the list.
const FILE: &str = "revocations.json";

/// The pushed revocations.
pub(super) struct Pushed {
    file: Option<StateFile>,
    index: ArcSwap<Index>,
    /// The revocations of `index`. Locked only to change them.
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    until: HashMap<Target, Option<UnixTime>>,
    /// The version of the file when it was read last.
    read: Option<Version>,
}

/// The result of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// The number of revocations in it.
    pub count: usize,
    /// Whether they outlive the process.
    pub saved: bool,
}

impl Pushed {
    /// Creates a set that is saved in `state`, if that is given, and begins with what was saved there. Blocks.
    pub(super) fn new(state: Option<&Path>, now: UnixTime) -> Self {
        let file = state.map(|folder| StateFile::new(folder, FILE));
        let pushed = Self { file, index: ArcSwap::default(), entries: Mutex::default() };
        pushed.read_saved(now);
        pushed
    }

    /// Whether a token with these marks is revoked.
    pub(super) fn revokes(&self, marks: &TokenMarks, now: UnixTime) -> bool {
        self.index.load().revokes(marks, now)
    }

    /// The number of revocations, including those that have ended since the last push.
    pub(super) fn len(&self) -> usize {
        self.index.load().len()
    }

    /// Adds the revocations of a list for `keep`, unless they end earlier. Blocks.
    pub(super) fn push(&self, list: &[u8], keep: Duration, now: UnixTime) -> Result<Push, PushError> {
        let new = list::parse(list)?;
        let count = new.len();
        let end = now.saturating_add(keep);
        let new = new.into_iter().map(|(target, until)| (target, Some(until.map_or(end, |until| until.min(end)))));
        let mut entries = self.entries();
        let mut until = entries.until.clone();
        merge(&mut until, new, now);
        let text = list::to_json(until.iter());
        if until.len() > MAX_PUSHED || text.len() > MAX_LIST_BYTES {
            return Err(PushError::TooMany);
        }
        entries.until = until;
        let saved = self.file.as_ref().is_some_and(|file| match save(file, &text) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "pushed revocations not saved in server.state; a restart forgets them");
                false
            }
        });
        self.publish(&entries);
        Ok(Push { count, saved })
    }

    /// Adds what another process has saved. Returns whether there was something new. Blocks.
    pub(super) fn read_saved(&self, now: UnixTime) -> bool {
        let Some(file) = &self.file else { return false };
        let mut entries = self.entries();
        let version = file.version();
        if version == entries.read {
            return false;
        }
        entries.read = version;
        let read = match file.read(MAX_LIST_BYTES) {
            Ok(bytes) => list::parse(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.is_absence() => return false,
            Err(error) => Err(error.to_string()),
        };
        let changed = match read {
            Ok(saved) => merge(&mut entries.until, saved, now),
            Err(error) => {
                tracing::error!(error, "saved revocations ignored: push them again, or put them into the list");
                false
            }
        };
        if changed {
            self.publish(&entries);
        }
        changed
    }

    fn publish(&self, entries: &Entries) {
        let revocations = entries.until.iter().map(|(target, until)| (target.clone(), *until));
        self.index.store(Index::of(revocations).into());
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file, and checks that the next process may read it.
fn save(file: &StateFile, text: &[u8]) -> Result<(), StateError> {
    file.write(text)?;
    file.read(MAX_LIST_BYTES).map(drop)
}

/// Adds revocations and removes those that have ended. Of two with the same target, the later end counts. Returns
/// whether something was added.
fn merge(
    entries: &mut HashMap<Target, Option<UnixTime>>,
    new: impl IntoIterator<Item = Revocation>,
    now: UnixTime,
) -> bool {
    entries.retain(|_, until| is_in_force(*until, now));
    let mut changed = false;
    for (target, until) in new.into_iter().filter(|(_, until)| is_in_force(*until, now)) {
        let later = match entries.get(&target) {
            Some(known) => known.zip(until).map(|(known, until)| known.max(until)),
            None => until,
        };
        changed |= entries.insert(target, later) != Some(later);
    }
    changed
}
