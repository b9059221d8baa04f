//! A set of usable keys (RFC 7517 section 5).

use std::sync::Arc;

use serde_json::{Value, json};

use super::key::{Key, KeyRejection};
use crate::auth::Algorithm;
use crate::json;

/// Bytes of a set; more is no key set (docs/security.md, J4).
pub(crate) const MAX_SET_BYTES: usize = 1 << 20;

/// Keys in a set, usable or not; more is no key set (docs/security.md, J4).
const MAX_KEYS: usize = 100;

/// Keys that are each proven usable; never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
}

/// A set, and what of it is not used.
#[derive(Debug)]
pub struct ParsedKeys {
    /// The usable keys.
    pub set: KeySet,
    /// The others, for the log and for `shapegate check`.
    pub rejected: Vec<RejectedKey>,
}

/// A key of a set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedKey {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, where it has one.
    pub kid: Option<String>,
    /// What is wrong with it.
    pub reason: KeyRejection,
}

/// Why a document is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JSON object with a list `keys`, or one with a duplicate member.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// `keys` is empty, or no key in it is usable.
    #[error("no usable key, first problem: {}", .0.map_or("the set is empty".to_owned(), |reason| reason.to_string()))]
    NoUsableKey(Option<KeyRejection>),
    /// More than 1 MiB.
    #[error("more than 1 MiB")]
    TooLarge,
    /// More than 100 keys.
    #[error("more than 100 keys")]
    TooManyKeys,
}

/// Why no key of a set is the one for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The token has no `kid` and several keys fit its algorithm.
    Ambiguous,
    /// The key with this `kid` is for another algorithm.
    Mismatch,
    /// No key has this `kid`, or none fits a token without one.
    Unknown,
}

impl KeySet {
    /// Reads a JSON Web Key Set and keeps the keys usable under one of `algorithms` (docs/security.md, J1 to
    /// J5).
    ///
    /// A bad key is left out and reported; of usable keys with one `kid` none is kept.
    pub fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<ParsedKeys, KeySetError> {
        if bytes.len() > MAX_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = json::parse_object(bytes).map_err(|_| KeySetError::Malformed)?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::Malformed)?;
        if listed.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let (mut usable, mut rejected) = (Vec::new(), Vec::new());
        for (index, jwk) in listed.iter().enumerate() {
            match Key::from_jwk(jwk, algorithms) {
                Ok(key) => usable.push((index, Arc::new(key))),
                Err(reason) => rejected.push(RejectedKey { index, kid: kid_of(jwk), reason }),
            }
        }
        drop_duplicates(&mut usable, &mut rejected);
        if usable.is_empty() {
            return Err(KeySetError::NoUsableKey(rejected.first().map(|rejected| rejected.reason)));
        }
        let keys = usable.into_iter().map(|(_, key)| key).collect();
        Ok(ParsedKeys { set: Self { keys }, rejected })
    }

    /// The kept keys as a JSON Web Key Set, public members only.
    pub fn to_json(&self) -> Value {
        json!({ "keys": self.keys.iter().filter_map(|key| key.public()).collect::<Vec<_>>() })
    }

    /// The number of keys; at least 1.
    #[allow(clippy::len_without_is_empty)] // a set is never empty
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether this key, or one that verifies the same tokens, is in the set.
    pub(crate) fn holds(&self, key: &Arc<Key>) -> bool {
        self.keys.iter().any(|held| held.is(key))
    }

    /// Whether both sets hold the same keys, whatever their order.
    pub(crate) fn same_keys(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys.iter().all(|key| other.holds(key))
    }

    /// The key for a token with this `kid` and algorithm.
    ///
    /// A token without `kid` has a key where exactly one of the set fits; several sets count as one, `sets` in order.
    pub(crate) fn find(sets: &[&Self], kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, NoKey> {
        let mut keys = sets.iter().flat_map(|set| &set.keys);
        if kid.is_some() {
            let key = keys.find(|key| key.kid() == kid).ok_or(NoKey::Unknown)?;
            return if key.algorithm() == algorithm { Ok(Arc::clone(key)) } else { Err(NoKey::Mismatch) };
        }
        let mut fitting = keys.filter(|key| key.algorithm() == algorithm);
        let key = fitting.next().ok_or(NoKey::Unknown)?;
        // The same key in the fixed and in the remote set is one key.
        if fitting.any(|other| !other.is(key)) { Err(NoKey::Ambiguous) } else { Ok(Arc::clone(key)) }
    }
}

fn kid_of(jwk: &Value) -> Option<String> {
    jwk.get("kid").and_then(Value::as_str).map(str::to_owned)
}

/// Which of two keys a `kid` means would be chance, so neither is used (docs/security.md, J1).
fn drop_duplicates(usable: &mut Vec<(usize, Arc<Key>)>, rejected: &mut Vec<RejectedKey>) {
    let kids: Vec<_> = usable.iter().filter_map(|(_, key)| key.kid().map(str::to_owned)).collect();
    let (duplicates, unique) = std::mem::take(usable)
        .into_iter()
        .partition(|(_, key)| key.kid().is_some_and(|kid| kids.iter().filter(|other| *other == kid).count() > 1));
    *usable = unique;
    let report = |(index, key): (usize, Arc<Key>)| RejectedKey {
        index,
        kid: key.kid().map(str::to_owned),
        reason: KeyRejection::DuplicateKid,
    };
    rejected.extend(<Vec<_> as IntoIterator>::into_iter(duplicates).map(report));
}

#[cfg(test)]
mod tests;
