//! The one place that turns a token into a [`Principal`].

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
/// A reload builds a [`successor`](Self::successor). No verdict outlives the configuration of the issuer that it was
/// reached under, and none is lost where that is the same.
pub struct TokenVerifier {
    issuers: Vec<Arc<TrustedIssuer>>,
    verdicts: Arc<Verdicts>,
    clock: Arc<dyn Clock>,
    around: Arc<Surroundings>,
}

/// A verified token's caller.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who asks.
    pub principal: Arc<Principal>,
    /// How it was found out.
    pub check: Check,
}

/// How a token came to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every check was made.
    New,
    /// It was verified before; its key is still held and it has not expired.
    Seen,
}

impl TokenVerifier {
    /// A verifier for `issuers` that remembers about `verdicts` tokens (0: none).
    ///
    /// Reads the last good key sets from `state_dir` and blocks for it; fetches nothing before [`Renewals`](super::Renewals)
    /// follow it or a token asks.
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

    /// The verifier of another configuration. An issuer that is the same there goes on as it is, with its keys and with
    /// what is remembered of its tokens; of one that has changed, the keys of the same endpoint are still good.
    ///
    /// Blocks for the key sets on disk of issuers that are new.
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

    /// Who sent this token.
    ///
    /// A token seen before is decided at once, and so is one whose key is at hand; a token with an unknown key waits for
    /// at most one fetch, shared with all that wait, within the issuer's timeout.
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

    /// Whether a caller verified before may go on: for answers that outlive the request (docs/security.md, T19).
    ///
    /// Asks for time and key only; whoever [is not known here](Self::knows) has to be verified anew.
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

    /// Whether the caller was verified under the very configuration of its issuer that is in use here.
    pub fn knows(&self, principal: &Principal) -> bool {
        self.issuer_of(principal).is_some()
    }

    /// Whether this token was verified before, so that [`verify`](Self::verify) has no signature to check.
    pub fn remembers(&self, token: &BearerToken) -> bool {
        self.verdicts.find(token.digest()).is_some()
    }

    /// How the keys of each issuer stand, in the order of the configuration.
    pub fn key_status(&self) -> Vec<KeyStatus> {
        self.issuers.iter().map(|issuer| issuer.status()).collect()
    }

    /// The key sets that are fetched.
    pub(super) fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteStore>> {
        self.issuers.iter().filter_map(|issuer| issuer.remote())
    }

    /// Every check, in the order of their cost; [`TokenError::Expired`] comes last.
    async fn check(&self, token: &BearerToken) -> Result<Principal, TokenError> {
        let jws = Jws::parse(token.as_str())?;
        let claims = jws.unverified_claims()?;
        let issuer = self.issuer(claims.get("iss").and_then(Value::as_str)).ok_or(InvalidReason::Issuer)?;
        issuer.check_header(&jws.header)?;
        let key = issuer.key(&jws.header, &*self.clock).await?;
        key.verify(jws.message, jws.signature).map_err(|_| InvalidReason::Signature)?;
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

/// The issuers of a configuration; those of `before` that are the same are taken as they are.
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

/// How a verdict of before stands now.
enum Standing {
    Expired,
    Holds,
    /// The issuer is gone, or is not as it was then.
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
