//! Who asks: what a verified token proves.

use std::fmt;
use std::sync::Arc;

use super::bearer::{BearerToken, TokenDigest};
use super::claims::Claims;
use super::expectations::Accepted;
use super::keys::Key;
use crate::clock::UnixTime;
use crate::gatekeeper::ShapeClaim;

/// A verified caller. Holding one is the proof that a token passed every check; only the verifier makes one.
pub struct Principal {
    issuer: Arc<str>,
    key: Arc<Key>,
    subject: Option<String>,
    claims: Claims,
    shape: Option<ShapeClaim>,
    expires_at: UnixTime,
    token_hash: String,
    subject_key: SubjectKey,
}

/// One subject's identity as a hash-map key: issuer and `sub`, or the token itself where it names no subject.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SubjectKey(Arc<Identity>);

#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Subject { issuer: Arc<str>, subject: String },
    Token(TokenDigest),
}

impl Principal {
    pub(super) fn new(
        token: &BearerToken,
        issuer: Arc<str>,
        key: Arc<Key>,
        accepted: Accepted,
        shape: Option<ShapeClaim>,
    ) -> Self {
        let Accepted { claims, subject, expires_at } = accepted;
        let identity = match &subject {
            None => Identity::Token(token.digest()),
            Some(subject) => Identity::Subject { issuer: Arc::clone(&issuer), subject: subject.clone() },
        };
        let (token_hash, subject_key) = (token.hash(), SubjectKey(Arc::new(identity)));
        Self { issuer, key, subject, claims: Claims::new(claims), shape, expires_at, token_hash, subject_key }
    }

    /// The token's `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token's `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Every claim of the token.
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The one shape that its token is for; `None` for a token of a user, whom the rules decide about.
    pub const fn shape(&self) -> Option<&ShapeClaim> {
        self.shape.as_ref()
    }

    /// The moment from which the token is refused: `exp` and the issuer's leeway.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// The short hash of the token that logs show, as [`BearerToken::hash`] gives it.
    pub fn token_hash(&self) -> &str {
        &self.token_hash
    }

    /// Under what this caller's budgets are counted.
    pub const fn subject_key(&self) -> &SubjectKey {
        &self.subject_key
    }

    pub(super) const fn key(&self) -> &Arc<Key> {
        &self.key
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({} by {})", self.token_hash, self.issuer)
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey(…)")
    }
}
