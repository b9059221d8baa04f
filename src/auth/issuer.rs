//! One accepted issuer: its keys and the requirements on its tokens.

use std::sync::Arc;

use super::Algorithm;
use super::error::{InvalidReason, IssuerError, TokenError};
use super::expectations::Expectations;
use super::introspection::Introspection;
use super::jws::JoseHeader;
use super::keys::store::{Demand, RemoteStore, Surroundings, usable};
use super::keys::{Key, KeySet, KeyStatus, NoKey};
use super::principal::Principal;
use super::requirement;
use super::settings::{IssuerSettings, KeySource, SharedSecret};
use crate::clock::{Clock, UnixTime};
use crate::shape::ShapeClaims;

/// An issuer whose tokens are accepted.
pub(super) struct TrustedIssuer {
    /// The `iss`. A [`Principal`](super::Principal) holds the same `Arc`, so pointer equality tells under which
    /// configuration a token was verified.
    pub(super) name: Arc<str>,
    pub(super) expectations: Expectations,
    /// The cookie in which its tokens may come.
    pub(super) cookie: Option<Arc<str>>,
    pub(super) shape_claims: ShapeClaims,
    algorithms: Vec<Algorithm>,
    types: Vec<String>,
    keys: Keys,
    pub(super) introspection: Option<Introspection<Arc<Principal>>>,
}

/// The keys of one issuer. They verify only tokens of this issuer.
struct Keys {
    /// The settings of `shared`, to compare.
    secrets: Vec<SharedSecret>,
    shared: Vec<Arc<Key>>,
    fixed: Option<KeySet>,
    remote: Option<Arc<RemoteStore>>,
}

impl TrustedIssuer {
    /// Builds an issuer, and checks the rules of its configuration again.
    ///
    /// `before` is the previous issuer of this name. Keys that it fetched from the same URL are reused. Otherwise the
    /// issuer starts with the last good set on disk, if there is one; reading the file blocks. Results of introspection
    /// are cached in at most `verdict_bytes`.
    pub(super) fn new(
        issuer: IssuerSettings,
        before: Option<&Self>,
        verdict_bytes: usize,
        around: &Surroundings,
    ) -> Result<Self, IssuerError> {
        let IssuerSettings {
            issuer: name,
            audience,
            require,
            algorithms,
            keys,
            introspection,
            leeway,
            max_lifetime,
            types,
            cookie,
            shape_claims,
        } = issuer;
        if audience.is_empty() && require.is_none() {
            return Err(IssuerError::NoAudience);
        }
        check_algorithms(&algorithms, &keys, introspection.is_some())?;
        let name: Arc<str> = name.into();
        let keys = Keys::new(&name, keys, &algorithms, before.and_then(Self::remote), around)?;
        let expectations = Expectations { audience, require, leeway, max_lifetime };
        let introspection = introspection.map(|settings| Introspection::new(settings, verdict_bytes));
        Ok(Self { name, expectations, cookie, shape_claims, algorithms, types, keys, introspection })
    }

    /// Whether every setting equals that of `config`. If so, tokens verified under this issuer stay verified.
    pub(super) fn is(&self, config: &IssuerSettings, verdict_bytes: usize) -> bool {
        // Lists every field, so that a new one does not compile until it is compared here.
        let IssuerSettings {
            issuer,
            audience,
            require,
            algorithms,
            keys,
            introspection,
            leeway,
            max_lifetime,
            types,
            cookie,
            shape_claims,
        } = config;
        let expected = &self.expectations;
        *self.name == **issuer
            && expected.audience == *audience
            && requirement::same(expected.require.as_deref(), require.as_deref())
            && (expected.leeway, expected.max_lifetime) == (*leeway, *max_lifetime)
            && self.algorithms == *algorithms
            && self.types == *types
            && self.cookie == *cookie
            && match (&self.introspection, introspection) {
                (Some(own), Some(introspection)) => own.is(introspection, verdict_bytes),
                (None, None) => true,
                _ => false,
            }
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

    /// Finds the keys that may have signed a token with this header, without waiting: none if only a fetch can tell. While
    /// a secret is replaced, there are two.
    pub(super) fn known_keys(&self, header: &JoseHeader, now: UnixTime) -> Result<Vec<Arc<Key>>, TokenError> {
        if header.algorithm.is_symmetric() {
            // `kid` is ignored, and `check_header` has checked that there is a secret for the algorithm.
            let shared = self.keys.shared.iter().filter(|key| key.algorithm() == header.algorithm);
            return Ok(shared.cloned().collect());
        }
        match self.find(header, now) {
            Ok(key) => Ok(vec![key]),
            Err(NoKey::Unknown) if self.remote().is_some() => Ok(Vec::new()),
            Err(problem) => Err(explain(problem, Demand::Current)),
        }
    }

    /// Finds the public key for a token with this header. Waits for a fetch only if no set has the key.
    pub(super) async fn key(&self, header: &JoseHeader, clock: &dyn Clock) -> Result<Arc<Key>, TokenError> {
        match (self.find(header, clock.now()), self.remote()) {
            (Ok(key), _) => Ok(key),
            (Err(NoKey::Unknown), Some(remote)) => {
                let demand = remote.demand().await;
                self.find(header, clock.now()).map_err(|problem| explain(problem, demand))
            }
            (Err(problem), _) => Err(explain(problem, Demand::Current)),
        }
    }

    /// Whether no published set is usable, as before the first fetch. Then it is not known which keys there are.
    pub(super) fn awaits_keys(&self, now: UnixTime) -> bool {
        self.remote().is_some_and(|remote| usable(&remote.load(), now).is_none())
    }

    fn find(&self, header: &JoseHeader, now: UnixTime) -> Result<Arc<Key>, NoKey> {
        self.with_sets(now, |sets| KeySet::find(sets, header.kid.as_deref(), header.algorithm))
    }

    /// Passes the usable sets of published keys to `read`: the fixed one, and the fetched one.
    fn with_sets<T>(&self, now: UnixTime, read: impl FnOnce(&[&KeySet]) -> T) -> T {
        let snapshot = self.remote().map(|remote| remote.load());
        let remote = snapshot.as_ref().and_then(|snapshot| usable(snapshot, now));
        read(&self.keys.fixed.iter().chain(remote).collect::<Vec<_>>())
    }

    /// Whether `key` is still one of this issuer's keys. A cached verdict counts only while it is (docs/security.md,
    /// T18, J8).
    pub(super) fn holds(&self, key: Option<&Arc<Key>>, now: UnixTime) -> bool {
        // The issuer vouched for the token itself.
        let Some(key) = key else { return self.introspection.is_some() };
        let Keys { shared, fixed, remote, .. } = &self.keys;
        shared.iter().any(|own| own.is(key))
            || fixed.as_ref().is_some_and(|set| set.holds(key))
            || remote.as_ref().is_some_and(|remote| usable(&remote.load(), now).is_some_and(|set| set.holds(key)))
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

    /// The accepted `alg` values.
    pub(super) fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// The accepted `typ` values.
    pub(super) fn types(&self) -> &[String] {
        &self.types
    }

    /// Returns the `kid` of each usable public key that has one.
    pub(super) fn kids(&self, now: UnixTime) -> Vec<String> {
        self.with_sets(now, |sets| sets.iter().flat_map(|set| set.kids()).map(str::to_owned).collect())
    }

    pub(super) const fn remote(&self) -> Option<&Arc<RemoteStore>> {
        self.keys.remote.as_ref()
    }

    pub(super) fn status(&self) -> KeyStatus {
        let permanent = self.keys.shared.len() + self.keys.fixed.as_ref().map_or(0, KeySet::len);
        let status = self.remote().map(|remote| remote.status());
        let status = status.unwrap_or_else(|| KeyStatus::without_remote(&self.name));
        let keyless = self.introspection.is_some() && self.remote().is_none();
        KeyStatus { keys: status.keys + permanent, ready: status.ready || permanent > 0 || keyless, ..status }
    }
}

/// Checks that each algorithm has keys and each kind of key has an algorithm, so that a key of one family never meets a
/// token of the other (docs/security.md, T2).
fn check_algorithms(algorithms: &[Algorithm], keys: &KeySource, introspects: bool) -> Result<(), IssuerError> {
    let KeySource { shared, fixed, remote } = keys;
    let published = fixed.is_some() || remote.is_some();
    if shared.is_empty() && !published {
        return if introspects && algorithms.is_empty() { Ok(()) } else { Err(IssuerError::NoKeys) };
    }
    let has_secret = |algorithm: &Algorithm| shared.iter().any(|shared| shared.algorithm == *algorithm);
    let has_keys = |algorithm: &Algorithm| if algorithm.is_symmetric() { has_secret(algorithm) } else { published };
    let secrets_used = shared.iter().all(|shared| algorithms.contains(&shared.algorithm));
    let sets_used = !published || algorithms.iter().any(|algorithm| !algorithm.is_symmetric());
    let matching = !algorithms.is_empty() && algorithms.iter().all(has_keys) && secrets_used && sets_used;
    if matching { Ok(()) } else { Err(IssuerError::Algorithms) }
}

impl Keys {
    fn new(
        issuer: &Arc<str>,
        source: KeySource,
        algorithms: &[Algorithm],
        before: Option<&Arc<RemoteStore>>,
        around: &Surroundings,
    ) -> Result<Self, IssuerError> {
        let KeySource { shared: secrets, fixed, remote } = source;
        let shared = secrets.iter().map(|secret| Key::shared(secret).map(Arc::new));
        let shared = shared.collect::<Result<_, _>>().map_err(|_| IssuerError::WeakSecret)?;
        let public: Vec<_> = algorithms.iter().copied().filter(|algorithm| !algorithm.is_symmetric()).collect();
        let store = |remote| match before {
            Some(before) if before.is(&remote, &public) => Arc::clone(before),
            _ => Arc::new(RemoteStore::new(Arc::clone(issuer), remote, public, before, around)),
        };
        Ok(Self { secrets, shared, fixed, remote: remote.map(store) })
    }

    /// Whether these are the keys of `source`. Remote sets are compared by their settings, not by their keys.
    fn are(&self, source: &KeySource) -> bool {
        let KeySource { shared, fixed, remote } = source;
        let same_set = match (&self.fixed, fixed) {
            (Some(fixed), Some(others)) => fixed.same_keys(others),
            (None, None) => true,
            _ => false,
        };
        // The caller has compared the algorithms.
        same_set && self.secrets == *shared && self.remote.as_ref().map(|remote| remote.place()) == remote.as_ref()
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
