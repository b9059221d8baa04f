//! Budgets: how many places are taken at once, in total, by one subject and by one address.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::DefaultHashBuilder;

use super::address::{Address, Client};
use super::limit::{Limit, Limited};
use crate::auth::SubjectKey;

/// Counts the places taken in total and by each client.
#[derive(Debug)]
pub struct Budgets {
    total: Bound,
    per_subject: Bound,
    per_address: Bound,
    taken: AtomicUsize,
    /// Places taken by each client; clients without a place are not stored.
    held: [Mutex<Held>; SHARDS],
    hasher: DefaultHashBuilder,
}

type Held = HashMap<Client, usize, DefaultHashBuilder>;

/// Number of locks, enough for the cores of one machine.
const SHARDS: usize = 16;

/// A limit and its current value.
#[derive(Debug)]
struct Bound {
    limit: Limit,
    most: AtomicUsize,
}

impl Bound {
    const fn new(limit: Limit) -> Self {
        Self { limit, most: AtomicUsize::new(0) }
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// The value of a limit that can be disabled; `None` if it is 0.
    fn some(&self) -> Option<usize> {
        Some(self.most()).filter(|most| *most > 0)
    }
}

/// One place. Dropping it releases the place.
#[derive(Debug)]
pub struct Place {
    budgets: Arc<Budgets>,
    subject: Option<SubjectKey>,
    address: Option<Address>,
}

impl Budgets {
    /// Creates budgets without places, under the names of their limits.
    pub(super) fn new(total: Limit, per_subject: Limit, per_address: Limit) -> Arc<Self> {
        Arc::new(Self {
            total: Bound::new(total),
            per_subject: Bound::new(per_subject),
            per_address: Bound::new(per_address),
            taken: AtomicUsize::new(0),
            held: std::array::from_fn(|_| Mutex::default()),
            hasher: DefaultHashBuilder::default(),
        })
    }

    /// Sets the number of places in total, for one subject and for one address. For the latter two, 0 means no limit.
    pub(super) fn set(&self, total: usize, per_subject: usize, per_address: usize) {
        self.total.most.store(total, Ordering::Relaxed);
        self.per_subject.most.store(per_subject, Ordering::Relaxed);
        self.per_address.most.store(per_address, Ordering::Relaxed);
    }

    /// Takes a place. `subject` is `None` without a token, `address` is `None` if the client's address is unknown.
    ///
    /// # Errors
    /// If no place is left, in total or for the subject or address.
    pub fn enter(self: &Arc<Self>, subject: Option<&SubjectKey>, address: Option<Address>) -> Result<Place, Limited> {
        let place = Place { budgets: Arc::clone(self), subject: None, address: None };
        // If a step fails, dropping `place` releases what was taken.
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.total.most() {
            return Err(Limited::by(self.total.limit));
        }
        let mut place = place.for_subject(subject)?;
        if let (Some(address), Some(most)) = (address, self.per_address.some()) {
            self.hold(Client::Address(address), most, self.per_address.limit)?;
            place.address = Some(address);
        }
        Ok(place)
    }

    /// The number of places in total.
    pub fn capacity(&self) -> usize {
        self.total.most()
    }

    /// The number of places taken.
    pub fn in_flight(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn hold(&self, client: Client, most: usize, limit: Limit) -> Result<(), Limited> {
        let mut held = self.shard(&client);
        let count = held.entry(client).or_default();
        // A full count is above 0, so this never leaves an empty entry behind.
        if *count >= most {
            return Err(Limited::by(limit));
        }
        *count += 1;
        Ok(())
    }

    fn give_back(&self, client: &Client) {
        let mut held = self.shard(client);
        match held.get_mut(client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(client)),
        }
    }

    fn shard(&self, client: &Client) -> MutexGuard<'_, Held> {
        let at = self.hasher.hash_one(client) % SHARDS as u64;
        self.held[usize::try_from(at).unwrap_or_default()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts the place for this subject too, which was unknown when it was taken.
    ///
    /// # Errors
    /// If the subject has no place left. The place is then released.
    pub fn for_subject(mut self, subject: Option<&SubjectKey>) -> Result<Self, Limited> {
        let Bound { limit, .. } = self.budgets.per_subject;
        if let (Some(subject), Some(most)) = (subject, self.budgets.per_subject.some()) {
            self.budgets.hold(Client::Subject(subject.clone()), most, limit)?;
            self.subject = Some(subject.clone());
        }
        Ok(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budgets.taken.fetch_sub(1, Ordering::Relaxed);
        if let Some(subject) = self.subject.take() {
            self.budgets.give_back(&Client::Subject(subject));
        }
        if let Some(address) = self.address {
            self.budgets.give_back(&Client::Address(address));
        }
    }
}
