//! One accepted issuer: its keys and the requirements on its tokens.

use std::sync::Arc;

use super::Algorithm;
use super::error::{InvalidReason, IssuerError, TokenError};
use super::expectations::Expectations;
use super::jws::JoseHeader;
use super::keys::store::{Demand, RemoteStore, Surroundings, usable};
use super::keys::{Key, KeySet, KeyStatus, NoKey};
use super::settings::{IssuerSettings, KeySource};
use crate::clock::{Clock, UnixTime};
use crate::secret::Secret;
use crate::shape::ShapeClaims;

/// An issuer whose tokens are accepted.
pub(super) struct TrustedIssuer {
    /// The `iss`. A [`Principal`](super::Principal) holds the same `Arc`, so pointer equality tells under which
    /// configuration a token was verified.
    pub(super) name: Arc<str>,
    pub(super) expectations: Expectations,
    pub(super) shape_claims: ShapeClaims,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) types: Vec<String>,
    keys: Keys,
}

/// The keys of one issuer. They verify only tokens of this issuer.
enum Keys {
    Published { fixed: Option<KeySet>, remote: Option<Arc<RemoteStore>> },
    Shared { secret: Secret, key: Arc<Key> },
}

impl TrustedIssuer {
    /// Builds an issuer, and checks the rules of its configuration again.
    ///
    /// `before` is the previous issuer of this name. Keys that it fetched from the same URL are reused. Otherwise the
    /// issuer starts with the last good set on disk, if there is one; reading the file blocks.
    pub(super) fn new(
        issuer: IssuerSettings,
        before: Option<&Self>,
        around: &Surroundings,
    ) -> Result<Self, IssuerError> {
        let IssuerSettings { issuer: name, audience, algorithms, keys, leeway, max_lifetime, types, shape_claims } =
            issuer;
        if audience.is_empty() {
            return Err(IssuerError::NoAudience);
        }
        let symmetric = matches!(keys, KeySource::Shared(_));
        if algorithms.is_empty() || algorithms.iter().any(|algorithm| algorithm.is_symmetric() != symmetric) {
            return Err(IssuerError::Algorithms);
        }
        let name: Arc<str> = name.into();
        let keys = Keys::new(&name, keys, &algorithms, before.and_then(Self::remote), around)?;
        let expectations = Expectations { audience, leeway, max_lifetime };
        Ok(Self { name, expectations, shape_claims, algorithms, types, keys })
    }

    /// Whether every setting equals that of `config`. If so, tokens verified under this issuer stay verified.
    pub(super) fn is(&self, config: &IssuerSettings) -> bool {
        // Lists every field, so that a new one does not compile until it is compared here.
        let IssuerSettings { issuer, audience, algorithms, keys, leeway, max_lifetime, types, shape_claims } = config;
        let expected = &self.expectations;
        *self.name == **issuer
            && expected.audience == *audience
            && (expected.leeway, expected.max_lifetime) == (*leeway, *max_lifetime)
            && self.algorithms == *algorithms
            && self.types == *types
            && self.shape_claims == *shape_claims
            && self.keys.are(keys)
    }

    /// Rejects a header whose `alg` or `typ` this issuer does not accept.
    pub(super) fn check_header(&self, header: &JoseHeader) -> Result<(), InvalidReason> {
        if !self.algorithms.contains(&header.algorithm) {
            return Err(InvalidReason::Algorithm);
        }
        match &header.typ {
            Some(typ) if !self.types.contains(typ) => Err(InvalidReason::Type),
            // RFC 8725 section 3.11: tokens that this gatekeeper signs always have a `typ`.
            None if self.shape_claims == ShapeClaims::Own => Err(InvalidReason::Type),
            _ => Ok(()),
        }
    }

    /// Finds the key for a token with this header without waiting; `None` if only a fetch can tell whether it exists.
    pub(super) fn known_key(&self, header: &JoseHeader, now: UnixTime) -> Result<Option<Arc<Key>>, TokenError> {
        match self.find(header, now) {
            Ok(key) => Ok(Some(key)),
            Err(NoKey::Unknown) if self.remote().is_some() => Ok(None),
            Err(problem) => Err(explain(problem, Demand::Current)),
        }
    }

    /// Finds the key for a token with this header. Waits for a fetch only if no set has the key.
    pub(super) async fn key(&self, header: &JoseHeader, clock: &dyn Clock) -> Result<Arc<Key>, TokenError> {
        match (self.known_key(header, clock.now())?, self.remote()) {
            (Some(key), _) => Ok(key),
            (None, None) => Err(InvalidReason::UnknownKey.into()),
            (None, Some(remote)) => {
                let demand = remote.demand().await;
                self.find(header, clock.now()).map_err(|problem| explain(problem, demand))
            }
        }
    }

    fn find(&self, header: &JoseHeader, now: UnixTime) -> Result<Arc<Key>, NoKey> {
        let (fixed, remote) = match &self.keys {
            // There is one secret, so `kid` is ignored; `check_header` has checked that the algorithm is HS256.
            Keys::Shared { key, .. } => return Ok(Arc::clone(key)),
            Keys::Published { fixed, remote } => (fixed, remote.as_ref().map(|remote| remote.load())),
        };
        let remote = remote.as_ref().and_then(|snapshot| usable(snapshot, now));
        match (fixed, remote) {
            (Some(fixed), Some(remote)) => KeySet::find(&[fixed, remote], header.kid.as_deref(), header.algorithm),
            (Some(only), None) | (None, Some(only)) => KeySet::find(&[only], header.kid.as_deref(), header.algorithm),
            (None, None) => Err(NoKey::Unknown),
        }
    }

    /// Whether `key` is still one of this issuer's keys. A cached verdict counts only while it is (docs/security.md,
    /// T18, J8).
    pub(super) fn holds(&self, key: &Arc<Key>, now: UnixTime) -> bool {
        match &self.keys {
            Keys::Shared { key: own, .. } => own.is(key),
            Keys::Published { fixed, remote } => {
                fixed.as_ref().is_some_and(|set| set.holds(key))
                    || remote
                        .as_ref()
                        .is_some_and(|remote| usable(&remote.load(), now).is_some_and(|set| set.holds(key)))
            }
        }
    }

    /// The error for a key that this issuer no longer [`holds`](Self::holds): the key was removed, or all remote keys
    /// are too old to be trusted.
    pub(super) fn key_gone(&self, now: UnixTime) -> TokenError {
        match self.remote() {
            Some(remote) if usable(&remote.load(), now).is_none() => {
                TokenError::KeysUnavailable { retry_after: remote.retry_after() }
            }
            _ => InvalidReason::UnknownKey.into(),
        }
    }

    /// Returns the `kid` of each usable public key that has one.
    pub(super) fn kids(&self, now: UnixTime) -> Vec<String> {
        let Keys::Published { fixed, remote } = &self.keys else { return Vec::new() };
        let remote = remote.as_ref().map(|remote| remote.load());
        let remote = remote.as_ref().and_then(|snapshot| usable(snapshot, now));
        fixed.iter().chain(remote).flat_map(KeySet::kids).map(str::to_owned).collect()
    }

    pub(super) fn remote(&self) -> Option<&Arc<RemoteStore>> {
        match &self.keys {
            Keys::Published { remote, .. } => remote.as_ref(),
            Keys::Shared { .. } => None,
        }
    }

    pub(super) fn status(&self) -> KeyStatus {
        let permanent = match &self.keys {
            Keys::Published { fixed, .. } => fixed.as_ref().map_or(0, KeySet::len),
            Keys::Shared { .. } => 1,
        };
        let status = self.remote().map(|remote| remote.status());
        let status = status.unwrap_or_else(|| KeyStatus::without_remote(&self.name));
        KeyStatus { keys: status.keys + permanent, ready: status.ready || permanent > 0, ..status }
    }
}

impl Keys {
    fn new(
        issuer: &Arc<str>,
        source: KeySource,
        algorithms: &[Algorithm],
        before: Option<&Arc<RemoteStore>>,
        around: &Surroundings,
    ) -> Result<Self, IssuerError> {
        match source {
            KeySource::Shared(secret) => {
                let key = Arc::new(Key::shared(&secret).map_err(|_| IssuerError::WeakSecret)?);
                Ok(Self::Shared { secret, key })
            }
            KeySource::Published { fixed: None, remote: None } => Err(IssuerError::NoKeys),
            KeySource::Published { fixed, remote } => {
                let store = |remote| match before {
                    Some(before) if before.is(&remote, algorithms) => Arc::clone(before),
                    _ => Arc::new(RemoteStore::new(Arc::clone(issuer), remote, algorithms.to_vec(), before, around)),
                };
                Ok(Self::Published { fixed, remote: remote.map(store) })
            }
        }
    }

    /// Whether these are the keys of `source`. Remote sets are compared by their settings, not by their keys.
    fn are(&self, source: &KeySource) -> bool {
        match (self, source) {
            (Self::Shared { secret, .. }, KeySource::Shared(other)) => secret == other,
            (Self::Published { fixed, remote }, KeySource::Published { fixed: others, remote: place }) => {
                let same_set = match (fixed, others) {
                    (Some(fixed), Some(others)) => fixed.same_keys(others),
                    (None, None) => true,
                    _ => false,
                };
                // The caller has compared the algorithms.
                same_set && remote.as_ref().map(|remote| remote.place()) == place.as_ref()
            }
            _ => false,
        }
    }
}

/// The error for a missing key: a forged `kid`, or an unreachable issuer.
fn explain(problem: NoKey, demand: Demand) -> TokenError {
    match (problem, demand) {
        (NoKey::Ambiguous, _) => InvalidReason::AmbiguousKey.into(),
        (NoKey::Mismatch, _) => InvalidReason::AlgorithmMismatch.into(),
        (NoKey::Unknown, Demand::Current) => InvalidReason::UnknownKey.into(),
        (NoKey::Unknown, Demand::Unavailable(retry_after)) => TokenError::KeysUnavailable { retry_after },
    }
}

impl KeyStatus {
    fn without_remote(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            keys: 0,
            rejected: 0,
            age: None,
            refreshes_ok: 0,
            refreshes_failed: 0,
            saves_failed: 0,
            ready: false,
        }
    }
}
