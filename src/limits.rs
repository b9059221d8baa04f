//! Budgets: requests being answered at one time, of all and of one subject.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::auth::SubjectKey;
use crate::rejection::Rejection;

/// Counts the requests being answered.
#[derive(Debug)]
pub struct Budgets {
    total: AtomicUsize,
    per_subject: AtomicUsize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    subjects: HashMap<SubjectKey, usize>,
}

/// One request's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    budgets: Arc<Budgets>,
    subject: Option<SubjectKey>,
}

impl Budgets {
    /// At most `total` requests at one time, and `per_subject` of each subject.
    pub fn new(total: usize, per_subject: usize) -> Arc<Self> {
        Arc::new(Self { total: total.into(), per_subject: per_subject.into(), taken: Mutex::default() })
    }

    /// From here on as [`new`](Self::new) says; who has a place keeps it, though there be too many.
    pub fn set(&self, total: usize, per_subject: usize) {
        // Nobody enters between the two.
        let _taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.total.store(total, Ordering::Relaxed);
        self.per_subject.store(per_subject, Ordering::Relaxed);
    }

    /// Takes a place for a request of `subject` (`None` for a public one).
    ///
    /// # Errors
    /// `Overloaded` where all places are taken, `TooManyRequests` where the subject's are.
    pub fn enter(self: &Arc<Self>, subject: Option<SubjectKey>) -> Result<Place, Rejection> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.capacity() {
            return Err(Rejection::Overloaded(RETRY_AFTER));
        }
        if let Some(subject) = &subject {
            match taken.subjects.get_mut(subject) {
                Some(count) if *count >= self.per_subject.load(Ordering::Relaxed) => {
                    return Err(Rejection::TooManyRequests(RETRY_AFTER));
                }
                Some(count) => *count += 1,
                None => drop(taken.subjects.insert(subject.clone(), 1)),
            }
        }
        taken.total += 1;
        Ok(Place { budgets: Arc::clone(self), subject })
    }

    /// How many requests may be answered at one time.
    pub fn capacity(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.budgets.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        let Some(subject) = &self.subject else { return };
        match taken.subjects.get_mut(subject) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.subjects.remove(subject)),
        }
    }
}

const RETRY_AFTER: Duration = Duration::from_secs(2);
