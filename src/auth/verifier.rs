//! Verifies tokens. This is the only place that makes a [`Principal`].

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::bearer::BearerToken;
use super::error::{InvalidReason, TokenError, VerifierError};
use super::issuer::TrustedIssuer;
use super::jws::Jws;
use super::keys::store::{RemoteStore, Surroundings};
use super::keys::{JwksFetch, KeyStatus};
use super::principal::Principal;
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
        let around = Arc::new(Surroundings { clock, fetcher, state: state_dir });
        let issuers = trusted(issuers, &[], &around)?;
        let clock = Arc::clone(&around.clock);
        Ok(Self { issuers, verdicts: Arc::new(Verdicts::new(verdicts)), clock, around })
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
        Ok(Self { issuers, verdicts, clock: Arc::clone(&self.clock), around: Arc::clone(&self.around) })
    }

    /// Verifies a token and returns its caller.
    ///
    /// Does not wait if the token was verified before or its key is known. With an unknown key it waits for at most one
    /// fetch, which all waiting requests share and which ends within the issuer's timeout (at most 5 s).
    pub async fn verify(&self, token: &BearerToken) -> Result<Verified, TokenError> {
        if let Some(principal) = self.verdicts.find(token.digest()) {
            match self.standing(&principal, self.clock.now()) {
                Standing::Holds => {
                    return Ok(Verified { principal, check: Check::Seen });
                }
                Standing::Expired => return Err(TokenError::Expired),
                Standing::KeyGone | Standing::IssuerChanged => self.verdicts.forget(token.digest()),
            }
        }
        let principal = Arc::new(self.check(token).await?);
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
            Standing::Holds => Ok(()),
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
        self.verdicts.find(token.digest()).is_some()
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
        let accepted = issuer.expectations.check(claims, self.clock.now())?;
        let shape = ShapeClaim::read(&accepted.claims, issuer.shape_claims).map_err(|_| InvalidReason::Shape)?;
        Ok(Principal::new(token, Arc::clone(&issuer.name), key, accepted, shape))
    }

    fn issuer(&self, name: Option<&str>) -> Option<&TrustedIssuer> {
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
