//! A new token between the checks that cost little and the check of its signature.

use std::sync::Arc;

use super::bearer::BearerToken;
use super::error::{InvalidReason, TokenError};
use super::expectations::Accepted;
use super::issuer::TrustedIssuer;
use super::jws::Jws;
use super::keys::Key;
use super::principal::Principal;
use crate::clock::Clock;
use crate::shape::ShapeClaim;

/// What [`TokenVerifier::examine`](super::TokenVerifier::examine) finds out about a token that it does not reject.
pub enum Examined<'a> {
    /// The token was verified before, and is still valid.
    Seen(Arc<Principal>),
    /// Only its issuer can read the token: [`TokenVerifier::introspect`](super::TokenVerifier::introspect) asks it.
    Opaque,
    /// The token is new.
    New(Box<Candidate<'a>>),
}

/// A new token of an accepted issuer whose header and claims are acceptable, except that it may have expired. Its
/// signature is not verified, so its claims prove nothing.
pub struct Candidate<'a> {
    token: &'a BearerToken,
    issuer: &'a TrustedIssuer,
    jws: Jws<'a>,
    /// `None` if the token has expired.
    accepted: Option<Accepted>,
    /// The keys that may have signed it. Empty if only a fetch can tell whether the issuer has the key.
    keys: Vec<Arc<Key>>,
}

impl<'a> Candidate<'a> {
    /// Parses the token and checks its structure, issuer, header and claims. The token is rejected if the issuer is
    /// known not to have its key, or if it has expired and is not in the issuer's set: no request waits for that.
    pub(super) fn new(
        token: &'a BearerToken,
        issuer_of: impl FnOnce(&str) -> Option<&'a TrustedIssuer>,
        clock: &dyn Clock,
    ) -> Result<Self, TokenError> {
        let jws = Jws::parse(token.as_str())?;
        let claims = jws.unverified_claims()?;
        let issuer = claims.get("iss").and_then(|name| issuer_of(name.as_str()?)).ok_or(InvalidReason::Issuer)?;
        issuer.check_header(&jws.header)?;
        let keys = issuer.known_keys(&jws.header, clock.now())?;
        let accepted = match issuer.expectations.check(claims, clock.now()) {
            Err(TokenError::Expired) if !keys.is_empty() || issuer.awaits_keys(clock.now()) => None,
            Err(TokenError::Expired) => return Err(InvalidReason::Expiry.into()),
            checked => Some(checked?),
        };
        Ok(Self { token, issuer, jws, accepted, keys })
    }

    /// Whether the key is known, so that [`TokenVerifier::find_key`](super::TokenVerifier::find_key) does not wait.
    pub const fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether the token has expired. Its signature then only decides whether the client is told so.
    pub const fn has_expired(&self) -> bool {
        self.accepted.is_none()
    }

    /// Finds the key. If it is unknown, this waits for at most one fetch, which all waiting requests share and which
    /// ends within the issuer's timeout (at most 5 s).
    ///
    /// # Errors
    /// The issuer does not have the key, or its keys are unavailable.
    pub(super) async fn find_key(&mut self, clock: &dyn Clock) -> Result<(), TokenError> {
        if self.keys.is_empty() {
            self.keys.push(self.issuer.key(&self.jws.header, clock).await?);
        }
        Ok(())
    }

    /// Checks the signature and what only a signed token may ask for.
    pub(super) fn accept(self, clock: &dyn Clock) -> Result<(&'a BearerToken, Principal), TokenError> {
        let Self { token, issuer, jws, accepted, keys } = self;
        let unsigned = if keys.is_empty() { InvalidReason::UnknownKey } else { InvalidReason::Signature };
        let mut keys = keys.into_iter();
        let key = keys.find(|key| key.verify(jws.message, jws.signature).is_ok()).ok_or(unsigned)?;
        // It may have expired while it waited for its key.
        let accepted = accepted.filter(|accepted| clock.now() < accepted.expires_at).ok_or(TokenError::Expired)?;
        let shape = ShapeClaim::read(&accepted.claims, issuer.shape_claims).map_err(|_| InvalidReason::Shape)?;
        Ok((token, Principal::new(token, Arc::clone(&issuer.name), Some(key), accepted, shape)))
    }
}
