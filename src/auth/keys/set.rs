//! Parses a JSON Web Key Set into usable keys (RFC 7517 section 5).

use std::sync::Arc;

use serde_json::{Value, json};

use super::key::{Key, KeyRejection};
use crate::auth::Algorithm;
use crate::json;

/// The most bytes of a key set; a longer one is rejected (docs/security.md, J4).
pub(crate) const MAX_SET_BYTES: usize = 1 << 20;

/// The most keys in a set, usable or not; a set with more is rejected (docs/security.md, J4).
const MAX_KEYS: usize = 100;

/// A set of keys that all passed the checks. Never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
}

/// A parsed key set: the usable keys and the rejected ones.
#[derive(Debug)]
pub struct ParsedKeys {
    /// The usable keys.
    pub set: KeySet,
    /// The rejected keys, for the log and for `shapegate check`.
    pub rejected: Vec<RejectedKey>,
}

/// A rejected key of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedKey {
    /// Its position in `keys`, from 0.
    pub index: usize,
    /// Its `kid`, if it has one.
    pub kid: Option<String>,
    /// Why it was rejected.
    pub reason: KeyRejection,
}

/// Why a document is not accepted as a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// The document is not a JSON object with an array `keys`, or has a duplicate member.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// `keys` is empty, or no key in it is usable.
    #[error("no usable key, first problem: {}", .0.map_or("the set is empty".to_owned(), |reason| reason.to_string()))]
    NoUsableKey(Option<KeyRejection>),
    /// The document has more than 1 MiB.
    #[error("more than 1 MiB")]
    TooLarge,
    /// The set has more than 100 keys.
    #[error("more than 100 keys")]
    TooManyKeys,
}

/// Why a set has no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The token has no `kid`, and several keys have its algorithm.
    Ambiguous,
    /// The key with this `kid` is for another algorithm.
    Mismatch,
    /// No key has this `kid`; or the token has no `kid`, and no key has its algorithm.
    Unknown,
}

impl KeySet {
    /// Parses a JSON Web Key Set and keeps the keys that are usable with one of `algorithms` (docs/security.md, J1 to
    /// J5).
    ///
    /// A bad key is left out and reported. If several usable keys have the same `kid`, none of them is kept.
    ///
    /// # Errors
    /// The document is not a key set, has more than 1 MiB or more than 100 keys, or none of its keys is usable.
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

    /// Returns the usable keys as a JSON Web Key Set with their public members only.
    pub fn to_json(&self) -> Value {
        json!({ "keys": self.keys.iter().filter_map(|key| key.public()).collect::<Vec<_>>() })
    }

    /// Returns the `kid` of each key that has one.
    pub(crate) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.kid())
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

    /// Whether both sets hold the same keys, in any order.
    pub(crate) fn same_keys(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys.iter().all(|key| other.holds(key))
    }

    /// Finds the key for a token with this `kid` and algorithm. Earlier sets in `sets` take precedence.
    ///
    /// For a token without `kid`, exactly one key of all sets must have its algorithm.
    pub(crate) fn find(sets: &[&Self], kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, NoKey> {
        let mut keys = sets.iter().flat_map(|set| &set.keys);
        if kid.is_some() {
            let key = keys.find(|key| key.kid() == kid).ok_or(NoKey::Unknown)?;
            return if key.algorithm() == algorithm { Ok(Arc::clone(key)) } else { Err(NoKey::Mismatch) };
        }
        let mut fitting = keys.filter(|key| key.algorithm() == algorithm);
        let key = fitting.next().ok_or(NoKey::Unknown)?;
        // A key that is in both the fixed and the remote set counts once.
        if fitting.any(|other| !other.is(key)) { Err(NoKey::Ambiguous) } else { Ok(Arc::clone(key)) }
    }
}

fn kid_of(jwk: &Value) -> Option<String> {
    jwk.get("kid").and_then(Value::as_str).map(str::to_owned)
}

/// Rejects all keys that share a `kid`, because the `kid` does not say which of them is meant (docs/security.md, J1).
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
