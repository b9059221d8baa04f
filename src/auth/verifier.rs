//! Verifies tokens. This is the only place that makes a [`Principal`].

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::error::{InvalidReason, TokenError, VerifierError};
use super::expectations::LATEST_DATE;
use super::issuer::TrustedIssuer;
use super::jws::Jws;
use super::keys::store::{RemoteStore, Surroundings};
use super::keys::{JwksFetch, Key, KeyStatus};
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
    /// Creates a verifier for `issuers` that caches about `verdicts` verified tokens (0: none).
    ///
    /// Reads the last good key sets from `state_dir`, which blocks. Fetches nothing until
    /// [`Renewals`](super::Renewals) follow it or a token needs a key.
    ///
    /// # Errors
    /// Two issuers have the same name, or an issuer has no audience, no keys, a weak secret or unsuitable algorithms.
    pub fn new(
        issuers: Vec<IssuerSettings>,
        verdicts: usize,
        clock: Arc<dyn Clock>,
        state_dir: Option<PathBuf>,
        fetcher: Arc<dyn JwksFetch>,
    ) -> Result<Self, VerifierError> {
        let revocations = Arc::new(Revocations::new(Arc::clone(&clock)));
        let around = Arc::new(Surroundings { clock, fetcher, state: state_dir, revocations });
        let issuers = trusted(issuers, &[], &around)?;
        let clock = Arc::clone(&around.clock);
        Ok(Self { cookies: cookies(&issuers), issuers, verdicts: Arc::new(Verdicts::new(verdicts)), clock, around })
    }

    /// Creates the verifier of a new configuration.
    ///
    /// An unchanged issuer keeps its keys and, unless the size of the cache changes, its cached verdicts. A changed
    /// issuer keeps the keys fetched from the same URL. For a new issuer, this reads the key set on disk, which blocks.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn successor(&self, issuers: Vec<IssuerSettings>, verdicts: usize) -> Result<Self, VerifierError> {
        let issuers = trusted(issuers, &self.issuers, &self.around)?;
        let verdicts = if verdicts == self.verdicts.capacity() {
            Arc::clone(&self.verdicts)
        } else {
            Arc::new(Verdicts::new(verdicts))
        };
        let (clock, around) = (Arc::clone(&self.clock), Arc::clone(&self.around));
        Ok(Self { cookies: cookies(&issuers), issuers, verdicts, clock, around })
    }

    /// Verifies a token and returns its caller.
    ///
    /// Does not wait if the token was verified before or its key is known. With an unknown key it waits for at most one
    /// fetch, which all waiting requests share and which ends within the issuer's timeout (at most 5 s).
    pub async fn verify(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        let verified = self.verify_anywhere(token).await?;
        // A cookie is only for tokens of the issuer that is configured with it.
        let belongs = |cookie| {
            self.issuer_of(&verified.principal).is_some_and(|issuer| issuer.cookie.as_deref() == Some(cookie))
        };
        if token.cookie().is_none_or(belongs) { Ok(verified) } else { Err(InvalidReason::Issuer.into()) }
    }

    /// Verifies a token wherever it came from.
    async fn verify_anywhere(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        if let Some(issuer) = self.introspecting(token) {
            return self.introspect(token, issuer).await;
        }
        if let Some(principal) = self.verdicts.find(token.digest()) {
            match self.standing(&principal, self.clock.now()) {
                Standing::Holds => {
                    self.around.revocations.check(&principal)?;
                    return Ok(Verified { principal, check: Check::Seen });
                }
                Standing::Expired => return Err(TokenError::Expired),
                Standing::KeyGone | Standing::IssuerChanged => self.verdicts.forget(token.digest()),
            }
        }
        let principal = Arc::new(self.check(token).await?);
        self.around.revocations.check(&principal)?;
        self.verdicts.remember(token.digest(), Arc::clone(&principal));
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

    /// Whether the verdict of this token is cached, so that [`verify`](Self::verify) has no signature to check.
    pub fn remembers(&self, token: &BearerToken) -> bool {
        match self.introspecting(token).and_then(|issuer| issuer.introspection.as_ref()) {
            Some(introspection) => introspection.cached(token).is_some(),
            None => self.verdicts.find(token.digest()).is_some(),
        }
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

    /// Makes every check, the cheap ones first. [`TokenError::Expired`] comes last, so it means nothing else is wrong.
    async fn check(&self, token: &BearerToken) -> Result<Principal, TokenError> {
        let jws = Jws::parse(token.as_str())?;
        let claims = jws.unverified_claims()?;
        let issuer = self.issuer(claims.get("iss").and_then(Value::as_str)).ok_or(InvalidReason::Issuer)?;
        issuer.check_header(&jws.header)?;
        let key = issuer.verify(&jws, &*self.clock).await?;
        self.accept(token, issuer, Some(key), claims)
    }

    /// Checks the claims of a token that its issuer vouches for.
    fn accept(
        &self,
        token: &BearerToken,
        issuer: &TrustedIssuer,
        key: Option<Arc<Key>>,
        claims: Map<String, Value>,
    ) -> Result<Principal, TokenError> {
        let accepted = issuer.expectations.check(claims, self.clock.now())?;
        let shape = ShapeClaim::read(&accepted.claims, issuer.shape_claims).map_err(|_| InvalidReason::Shape)?;
        Ok(Principal::new(token, Arc::clone(&issuer.name), key, accepted, shape))
    }

    /// Returns the issuer that is asked about this token, if it is not a signed one.
    fn introspecting(&self, token: &BearerToken) -> Option<&TrustedIssuer> {
        let asked = self.issuers.iter().find(|issuer| issuer.introspection.is_some())?;
        let signed = token.as_str().bytes().filter(|byte| *byte == b'.').count() == 2;
        (!signed).then_some(&**asked)
    }

    /// Verifies a token by asking its issuer, or by what it said a short time ago.
    async fn introspect(&self, token: &BearerToken, issuer: &TrustedIssuer) -> Result<Verified, TokenError> {
        let Some(introspection) = &issuer.introspection else { return Err(InvalidReason::Structure.into()) };
        let check = if introspection.cached(token).is_some() { Check::Seen } else { Check::New };
        let judge = |mut claims: Map<String, Value>| {
            if claims.get("iss").is_some_and(|named| named.as_str() != Some(&issuer.name)) {
                return Err(InvalidReason::Issuer.into());
            }
            // A session may last until its issuer ends it (RFC 7662 section 2.2).
            claims.entry("exp").or_insert_with(|| LATEST_DATE.into());
            self.accept(token, issuer, None, claims).map(Arc::new)
        };
        let principal = introspection.verify(token, judge).await?;
        if self.clock.now() >= principal.expires_at() {
            return Err(TokenError::Expired);
        }
        self.around.revocations.check(&principal)?;
        Ok(Verified { principal, check })
    }

    /// The names of the configured issuers.
    pub(super) fn issuer_names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| &*issuer.name)
    }

    pub(super) fn issuer(&self, name: Option<&str>) -> Option<&TrustedIssuer> {
        self.issuers.iter().map(|issuer| &**issuer).find(|issuer| Some(&*issuer.name) == name)
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
            Some(same) if same.is(&issuer) => Arc::clone(same),
            _ => {
                let issuer = TrustedIssuer::new(issuer, before.map(|before| &**before), around);
                Arc::new(issuer.map_err(|reason| VerifierError::Issuer { issuer: name, reason })?)
            }
        });
    }
    Ok(trusted)
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
