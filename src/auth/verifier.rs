//! Verifies tokens. This is the only place that makes a [`Principal`].

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::candidate::{Candidate, Examined};
use super::error::{InvalidReason, TokenError, VerifierError};
use super::expectations::LATEST_DATE;
use super::issuer::TrustedIssuer;
use super::keys::store::{RemoteStore, Surroundings};
use super::keys::{JwksFetch, KeyStatus};
use super::principal::Principal;
use super::revocation::Revocations;
use super::settings::IssuerSettings;
use super::verdicts::Verdicts;
use crate::clock::{Clock, UnixTime};
use crate::shape::ShapeClaim;

/// Verifies bearer tokens of the configured issuers.
///
/// A reload builds a [`successor`](Self::successor). Cached verdicts of unchanged issuers stay valid; those of issuers
/// whose configuration changed do not.
pub struct TokenVerifier {
    issuers: Vec<Arc<TrustedIssuer>>,
    cookies: Vec<Arc<str>>,
    verdicts: Arc<Verdicts>,
    clock: Arc<dyn Clock>,
    around: Arc<Surroundings>,
}

/// A verified token's caller.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The caller.
    pub principal: Arc<Principal>,
    /// Whether the token was verified now or before.
    pub check: Check,
}

/// How a token was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every check was made for this request.
    New,
    /// The token was verified before; its key is still valid and it has not expired.
    Seen,
}

impl TokenVerifier {
    /// Creates a verifier for `issuers` that caches verified tokens in at most `verdict_bytes` (0: none), and results of
    /// introspection in as many.
    ///
    /// Reads the last good key sets and the pushed revocations from `state_dir`, which blocks. Fetches nothing until
    /// [`Renewals`](super::Renewals) follow it or a token needs a key.
    ///
    /// # Errors
    /// Two issuers have the same name, or an issuer has no audience, no keys, a weak secret or unsuitable algorithms.
    pub fn new(
        issuers: Vec<IssuerSettings>,
        verdict_bytes: usize,
        clock: Arc<dyn Clock>,
        state_dir: Option<PathBuf>,
        fetcher: Arc<dyn JwksFetch>,
    ) -> Result<Self, VerifierError> {
        let revocations = Arc::new(Revocations::new(Arc::clone(&clock), state_dir.as_deref()));
        let around = Arc::new(Surroundings { clock, fetcher, state: state_dir, revocations });
        let issuers = trusted(issuers, &[], verdict_bytes, &around)?;
        let clock = Arc::clone(&around.clock);
        Ok(Self {
            cookies: cookies(&issuers),
            issuers,
            verdicts: Arc::new(Verdicts::new(verdict_bytes)),
            clock,
            around,
        })
    }

    /// Creates the verifier of a new configuration.
    ///
    /// An unchanged issuer keeps its keys and, unless the size of the cache changes, its cached verdicts. A changed
    /// issuer keeps the keys fetched from the same URL. For a new issuer, this reads the key set on disk, which blocks.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn successor(&self, issuers: Vec<IssuerSettings>, verdict_bytes: usize) -> Result<Self, VerifierError> {
        let issuers = trusted(issuers, &self.issuers, verdict_bytes, &self.around)?;
        let verdicts = if verdict_bytes == self.verdicts.budget() {
            Arc::clone(&self.verdicts)
        } else {
            Arc::new(Verdicts::new(verdict_bytes))
        };
        let (clock, around) = (Arc::clone(&self.clock), Arc::clone(&self.around));
        Ok(Self { cookies: cookies(&issuers), issuers, verdicts, clock, around })
    }

    /// Verifies a token and returns its caller: [`examine`](Self::examine), [`find_key`](Self::find_key) and
    /// [`accept`](Self::accept) in one.
    pub async fn verify(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        match self.examine(token)? {
            Examined::Seen(principal) => Ok(Verified { principal, check: Check::Seen }),
            Examined::Opaque => self.introspect(token).await,
            Examined::New(mut candidate) => {
                self.find_key(&mut candidate).await?;
                self.accept(*candidate)
            }
        }
    }

    /// Makes every check of a token that needs neither a signature nor a wait.
    ///
    /// # Errors
    /// The token is rejected.
    pub fn examine<'a>(&'a self, token: &'a BearerToken) -> Result<Examined<'a>, TokenError> {
        if let Some(introspection) = self.introspecting(token).and_then(|issuer| issuer.introspection.as_ref()) {
            let Some(principal) = introspection.cached(token) else { return Ok(Examined::Opaque) };
            self.admit(token, &principal)?;
            return Ok(Examined::Seen(principal));
        }
        if let Some(principal) = self.verdicts.find(token.digest()) {
            match self.standing(&principal, self.clock.now()) {
                Standing::Holds => {
                    self.admit(token, &principal)?;
                    return Ok(Examined::Seen(principal));
                }
                Standing::Expired => return Err(TokenError::Expired),
                Standing::KeyGone | Standing::IssuerChanged => self.verdicts.forget(token.digest()),
            }
        }
        let candidate = Candidate::new(token, |name| self.issuer(name), &*self.clock)?;
        Ok(Examined::New(Box::new(candidate)))
    }

    /// Finds a candidate's key. Waits for at most one fetch if the key is not [known](Candidate::has_key); all waiting
    /// requests share the fetch, and it ends within the issuer's timeout (at most 5 s).
    ///
    /// # Errors
    /// The issuer does not have the key, or its keys are unavailable.
    pub async fn find_key(&self, candidate: &mut Candidate<'_>) -> Result<(), TokenError> {
        candidate.find_key(&*self.clock).await
    }

    /// Checks a candidate's signature. This is the only check of a token that costs much.
    ///
    /// # Errors
    /// The signature is wrong, or its shape claim is, or it is revoked. [`TokenError::Expired`] means that nothing else
    /// is wrong.
    pub fn accept(&self, candidate: Candidate<'_>) -> Result<Verified, TokenError> {
        let (token, principal) = candidate.accept(&*self.clock)?;
        let principal = Arc::new(principal);
        // Remembered first: a client that repeats a revoked token causes no further check of its signature.
        self.verdicts.remember(token.digest(), Arc::clone(&principal));
        self.admit(token, &principal)?;
        Ok(Verified { principal, check: Check::New })
    }

    /// Checks that a verified caller is still valid, for responses that take long (docs/security.md, T19).
    ///
    /// Checks only expiry and key. A caller that [is not known here](Self::knows) is rejected; verify its token again.
    pub fn recheck(&self, principal: &Principal) -> Result<(), TokenError> {
        let now = self.clock.now();
        match self.standing(principal, now) {
            Standing::Expired => Err(TokenError::Expired),
            Standing::Holds => self.around.revocations.check(principal),
            Standing::IssuerChanged => Err(InvalidReason::UnknownKey.into()),
            Standing::KeyGone => {
                let issuer = self.issuer_of(principal);
                Err(issuer.map_or(InvalidReason::UnknownKey.into(), |issuer| issuer.key_gone(now)))
            }
        }
    }

    /// Whether the caller was verified under the same configuration of its issuer that this verifier uses.
    pub fn knows(&self, principal: &Principal) -> bool {
        self.issuer_of(principal).is_some()
    }

    /// The names of the cookies in which a token may come.
    pub fn cookies(&self) -> &[Arc<str>] {
        &self.cookies
    }

    /// The revocations, which last as long as the process.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.around.revocations
    }

    /// Returns the state of each issuer's keys, in the order of the configuration.
    pub fn key_status(&self) -> Vec<KeyStatus> {
        self.issuers.iter().map(|issuer| issuer.status()).collect()
    }

    /// The key sets that are fetched over HTTP.
    pub(super) fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteStore>> {
        self.issuers.iter().filter_map(|issuer| issuer.remote())
    }

    /// Checks what does not depend on the token alone: that it came in a cookie of its own issuer, if in one, that it has
    /// not expired, and that it is not revoked.
    fn admit(&self, token: &BearerToken, principal: &Principal) -> Result<(), TokenError> {
        let belongs = |cookie| self.issuer_of(principal).is_some_and(|issuer| issuer.cookie.as_deref() == Some(cookie));
        if !token.cookie().is_none_or(belongs) {
            return Err(InvalidReason::Issuer.into());
        }
        if self.clock.now() >= principal.expires_at() {
            return Err(TokenError::Expired);
        }
        self.around.revocations.check(principal)
    }

    /// Returns the issuer that is asked about this token, if it is not a signed one.
    fn introspecting(&self, token: &BearerToken) -> Option<&TrustedIssuer> {
        let asked = self.issuers.iter().find(|issuer| issuer.introspection.is_some())?;
        let signed = token.as_str().bytes().filter(|byte| *byte == b'.').count() == 2;
        (!signed).then_some(&**asked)
    }

    /// Verifies an [opaque](Examined::Opaque) token by asking its issuer.
    ///
    /// # Errors
    /// The issuer says that the token is not active, or its claims are not acceptable, or it does not respond.
    pub async fn introspect(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        let issuer = self.introspecting(token);
        let Some((issuer, introspection)) = issuer.and_then(|issuer| Some((issuer, issuer.introspection.as_ref()?)))
        else {
            return Err(InvalidReason::Structure.into());
        };
        let judge = |claims| introspected(token, issuer, claims, self.clock.now()).map(Arc::new);
        let principal = introspection.verify(token, judge).await?;
        self.admit(token, &principal)?;
        Ok(Verified { principal, check: Check::New })
    }

    /// The `iss` of each issuer.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| &*issuer.name)
    }

    pub(super) fn issuer(&self, name: &str) -> Option<&TrustedIssuer> {
        self.issuers.iter().map(|issuer| &**issuer).find(|issuer| *issuer.name == *name)
    }

    fn issuer_of(&self, principal: &Principal) -> Option<&TrustedIssuer> {
        self.issuers.iter().map(|issuer| &**issuer).find(|issuer| principal.is_of(&issuer.name))
    }

    fn standing(&self, principal: &Principal, now: UnixTime) -> Standing {
        match self.issuer_of(principal) {
            Some(issuer) if issuer.holds(principal.key(), now) => {
                if now < principal.expires_at() {
                    Standing::Holds
                } else {
                    Standing::Expired
                }
            }
            Some(_) => Standing::KeyGone,
            None => Standing::IssuerChanged,
        }
    }
}

/// Builds the issuers of a configuration, and reuses those of `before` that are unchanged.
fn trusted(
    issuers: Vec<IssuerSettings>,
    before: &[Arc<TrustedIssuer>],
    verdict_bytes: usize,
    around: &Surroundings,
) -> Result<Vec<Arc<TrustedIssuer>>, VerifierError> {
    let mut trusted: Vec<Arc<TrustedIssuer>> = Vec::new();
    for issuer in issuers {
        let name = issuer.issuer.clone();
        if trusted.iter().any(|other| *other.name == *name) {
            return Err(VerifierError::DuplicateIssuer(name));
        }
        let before = before.iter().find(|before| *before.name == *name);
        trusted.push(match before {
            Some(same) if same.is(&issuer, verdict_bytes) => Arc::clone(same),
            _ => {
                let issuer = TrustedIssuer::new(issuer, before.map(|before| &**before), verdict_bytes, around);
                Arc::new(issuer.map_err(|reason| VerifierError::Issuer { issuer: name, reason })?)
            }
        });
    }
    Ok(trusted)
}

/// Judges what an issuer says about one of its tokens.
fn introspected(
    token: &BearerToken,
    issuer: &TrustedIssuer,
    mut claims: Map<String, Value>,
    now: UnixTime,
) -> Result<Principal, TokenError> {
    if claims.get("iss").is_some_and(|named| named.as_str() != Some(&issuer.name)) {
        return Err(InvalidReason::Issuer.into());
    }
    // A session may last until its issuer ends it (RFC 7662 section 2.2).
    claims.entry("exp").or_insert_with(|| LATEST_DATE.into());
    let accepted = issuer.expectations.check(claims, now)?;
    let shape = ShapeClaim::read(&accepted.claims, issuer.shape_claims).map_err(|_| InvalidReason::Shape)?;
    Ok(Principal::new(token, Arc::clone(&issuer.name), None, accepted, shape))
}

/// Returns the distinct names of the issuers' cookies.
fn cookies(issuers: &[Arc<TrustedIssuer>]) -> Vec<Arc<str>> {
    let mut names: Vec<_> = issuers.iter().filter_map(|issuer| issuer.cookie.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether a cached verdict is still valid.
enum Standing {
    Expired,
    Holds,
    /// The issuer was removed or its configuration changed.
    IssuerChanged,
    KeyGone,
}

impl Check {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Seen => "seen",
        }
    }
}

#[cfg(test)]
mod tests;
