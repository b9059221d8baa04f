//! Parses a JSON Web Key Set into usable keys (RFC 7517 section 5).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use url::Url;

use super::key::{Key, KeyRejection};
use crate::auth::Algorithm;
use crate::auth::http::{MAX_SHOWN, shown};
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It has X.509 certificates by key id, as Google publishes them beside its key sets.
    #[error(
        "X.509 certificates, not a JSON Web Key Set: write the issuer's other URL, which for Firebase is \
         https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
    )]
    Certificates,
    /// The document is not a JSON object with an array `keys`, or has a duplicate member.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// It is the metadata of an issuer. Holds its `jwks_uri`.
    #[error("the issuer's metadata, not its keys: write {}, or discover = true instead of a URL", jwks_url(.0.as_ref()))]
    Metadata(Option<Url>),
    /// No key in `keys` is usable. Holds every key's reason; empty if `keys` is.
    #[error("no usable key: {}", reasons(.0))]
    NoUsableKey(Vec<RejectedKey>),
    /// It is one key without a set around it.
    #[error("one JSON Web Key, not a set: write it into a file as {{\"keys\": [KEY]}} and name that as jwks.file")]
    SingleKey,
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
    /// The keys with this `kid` are for other algorithms.
    Mismatch,
    /// No key has this `kid`; or the token has no `kid`, and no key has its algorithm.
    Unknown,
}

impl KeySet {
    /// Parses a JSON Web Key Set and keeps the keys that are usable with one of `algorithms` (docs/security.md, J1 to
    /// J5).
    ///
    /// A bad key is left out and reported. The same key twice is one key. If different usable keys have the same `kid`
    /// and algorithm, none of them is kept.
    ///
    /// # Errors
    /// The document is not a key set, has more than 1 MiB or more than 100 keys, or none of its keys is usable.
    pub fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<ParsedKeys, KeySetError> {
        if bytes.len() > MAX_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = json::parse_object(bytes).map_err(|_| KeySetError::Malformed)?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or_else(|| other_document(&document))?;
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
            return Err(KeySetError::NoUsableKey(rejected));
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
        let keys = sets.iter().flat_map(|set| &set.keys);
        if kid.is_some() {
            let named: Vec<_> = keys.filter(|key| key.kid() == kid).collect();
            let key = named.iter().find(|key| key.algorithm() == algorithm);
            let missing = if named.is_empty() { NoKey::Unknown } else { NoKey::Mismatch };
            return key.map(|key| Arc::clone(key)).ok_or(missing);
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

/// Drops repetitions of a key, and rejects different keys with the same `kid` and algorithm, because these do not say
/// which of them is meant (docs/security.md, J1).
fn drop_duplicates(usable: &mut Vec<(usize, Arc<Key>)>, rejected: &mut Vec<RejectedKey>) {
    let mut distinct: Vec<(usize, Arc<Key>)> = Vec::new();
    for (index, key) in std::mem::take(usable) {
        if !distinct.iter().any(|(_, other)| other.is(&key)) {
            distinct.push((index, key));
        }
    }
    let clashes = |key: &Arc<Key>| {
        let same = |other: &Arc<Key>| other.kid() == key.kid() && other.algorithm() == key.algorithm();
        key.kid().is_some() && distinct.iter().filter(|(_, other)| same(other)).count() > 1
    };
    for (index, key) in &distinct {
        if clashes(key) {
            let (kid, reason) = (key.kid().map(str::to_owned), KeyRejection::DuplicateKid);
            rejected.push(RejectedKey { index: *index, kid, reason });
        } else {
            usable.push((*index, Arc::clone(key)));
        }
    }
}

/// Says what a document without `keys` is.
fn other_document(document: &Map<String, Value>) -> KeySetError {
    let is_certificate = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("-----BEGIN CERTIFICATE"));
    match document.get("jwks_uri") {
        Some(uri) => KeySetError::Metadata(uri.as_str().and_then(|uri| Url::parse(uri).ok())),
        None if document.contains_key("kty") => KeySetError::SingleKey,
        None if document.values().any(is_certificate) => KeySetError::Certificates,
        None => KeySetError::Malformed,
    }
}

fn jwks_url(uri: Option<&Url>) -> String {
    uri.map_or_else(|| "the URL of its key set".to_owned(), |uri| format!("url = {:?}", shown(uri)))
}

fn reasons(rejected: &[RejectedKey]) -> String {
    if rejected.is_empty() {
        return "the set is empty".to_owned();
    }
    rejected.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for RejectedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            None => write!(f, "key {} without kid: {}", self.index, self.reason),
            Some(kid) => {
                let kid: String = kid.chars().take(MAX_SHOWN).collect();
                write!(f, "key {} ({kid:?}): {}", self.index, self.reason)
            }
        }
    }
}

#[cfg(test)]
mod tests;
