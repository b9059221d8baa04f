//! Who asks: what a verified token proves.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::claims::Claims;
use super::expectations::Accepted;
use super::keys::Key;
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::hex::hex;
use crate::shape::ShapeClaim;

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
    for_nobody: bool,
}

/// One subject's identity as a hash: of issuer and `sub`, or of the token itself where it names no subject. A token
/// minted here counts for the user it was minted for, so that nobody has a budget for each of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SubjectKey([u8; 32]);

impl SubjectKey {
    /// The claim of a minted token that holds its user's.
    pub(crate) const CLAIM: &str = "user";

    fn of_subject(issuer: &str, subject: &str) -> Self {
        let length = (issuer.len() as u64).to_be_bytes();
        Self(sha256([&length, issuer.as_bytes(), subject.as_bytes()].concat()))
    }

    fn of_minted(claims: &Map<String, Value>) -> Option<Self> {
        let text = claims.get(Self::CLAIM)?.as_str()?.as_bytes();
        let mut bytes = [0; 32];
        let digits = text.chunks_exact(2).filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        let digits: Vec<_> = digits.collect();
        (text.len() == 64 && digits.len() == 32).then(|| bytes.copy_from_slice(&digits))?;
        Some(Self(bytes))
    }

    /// In hex.
    pub(crate) fn to_claim(&self) -> String {
        hex(&self.0)
    }
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
        let minted = shape.as_ref().is_some_and(|shape| shape.rule().is_some());
        let user = Some(&claims).filter(|_| minted).and_then(SubjectKey::of_minted);
        let for_nobody = minted && user.is_none() && subject.is_none();
        let subject_key = user.unwrap_or_else(|| match &subject {
            None => SubjectKey(token.digest().bytes()),
            Some(subject) => SubjectKey::of_subject(&issuer, subject),
        });
        let token_hash = token.hash();
        Self {
            issuer,
            key,
            subject,
            claims: Claims::new(claims),
            shape,
            expires_at,
            token_hash,
            subject_key,
            for_nobody,
        }
    }

    /// The token's `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether it was verified by the issuer that holds this very name, not by another one of the same name.
    pub(super) fn is_of(&self, issuer: &Arc<str>) -> bool {
        Arc::ptr_eq(&self.issuer, issuer)
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

    /// Whether its token was minted here for somebody who had none, under a public rule: anybody may have as many of
    /// these as he likes.
    pub const fn is_for_nobody(&self) -> bool {
        self.for_nobody
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
