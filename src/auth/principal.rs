//! The verified caller of a request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::claims::Claims;
use super::expectations::Accepted;
use super::keys::Key;
use super::revocation::TokenMarks;
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::heap;
use crate::hex::hex;
use crate::shape::ShapeClaim;

/// A verified caller. It proves that a token passed every check: only the verifier can make one.
pub struct Principal {
    issuer: Arc<str>,
    /// The key that made the signature; `None` if the issuer vouched for the token by introspection.
    key: Option<Arc<Key>>,
    subject: Option<String>,
    claims: Claims,
    shape: Option<ShapeClaim>,
    expires_at: UnixTime,
    token_hash: String,
    subject_key: SubjectKey,
    for_nobody: bool,
    marks: TokenMarks,
    /// The last change of the revocations after which the token was not revoked; 0 if it was never looked up.
    unrevoked_at: AtomicU64,
}

/// Identifies a subject by a hash of issuer and `sub`, or of the whole token if it has no `sub`.
///
/// A token that the gatekeeper minted counts for the user it was minted for. Otherwise a user would get one more budget
/// with each minted token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SubjectKey([u8; 32]);

impl SubjectKey {
    /// The claim of a minted token that holds the key of its user.
    pub(crate) const CLAIM: &str = "user";

    pub(crate) fn of_subject(issuer: &str, subject: &str) -> Self {
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

    /// Encodes the key as 64 hex digits, for [`Self::CLAIM`].
    pub(crate) fn to_claim(&self) -> String {
        hex(&self.0)
    }
}

impl Principal {
    pub(super) fn new(
        token: &BearerToken,
        issuer: Arc<str>,
        key: Option<Arc<Key>>,
        accepted: Accepted,
        shape: Option<ShapeClaim>,
    ) -> Self {
        let Accepted { claims, subject, expires_at } = accepted;
        let minted = shape.as_ref().is_some_and(|shape| shape.rule().is_some());
        let user = Some(&claims).filter(|_| minted).and_then(SubjectKey::of_minted);
        let marks = Some(&claims).filter(|_| minted).and_then(TokenMarks::of_minted);
        let marks = marks.unwrap_or_else(|| TokenMarks::of(&issuer, &claims));
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
            marks,
            unrevoked_at: AtomicU64::new(0),
        }
    }

    /// The token's `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether the token was verified by the issuer that owns this `Arc`, not by another issuer with the same name.
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

    /// The only shape that the token is for; `None` for a user's token, for which the rules decide.
    pub const fn shape(&self) -> Option<&ShapeClaim> {
        self.shape.as_ref()
    }

    /// The time from which the token is rejected: `exp` plus the issuer's leeway.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// The short token hash for logs, as [`BearerToken::hash`] returns it.
    pub fn token_hash(&self) -> &str {
        &self.token_hash
    }

    /// The key under which this caller's budgets are counted.
    pub const fn subject_key(&self) -> &SubjectKey {
        &self.subject_key
    }

    /// Whether the gatekeeper minted this token under a public rule for a client without a token. Anyone can get any
    /// number of such tokens.
    pub const fn is_for_nobody(&self) -> bool {
        self.for_nobody
    }

    /// The bytes that the caller takes in memory, without its issuer and key, which are shared.
    pub(super) fn bytes(&self) -> usize {
        let texts = [self.subject.as_deref().unwrap_or_default(), &self.token_hash];
        let texts = texts.into_iter().chain(self.marks.texts());
        let shape = self.shape.as_ref().map_or(0, ShapeClaim::heap_bytes);
        heap::allocation(size_of::<Self>()) + self.claims.bytes() + heap::texts(texts) + shape
    }

    pub(super) const fn key(&self) -> Option<&Arc<Key>> {
        self.key.as_ref()
    }

    /// What the token can be revoked by.
    pub(crate) const fn marks(&self) -> &TokenMarks {
        &self.marks
    }

    pub(super) fn unrevoked_at(&self) -> u64 {
        self.unrevoked_at.load(Ordering::Relaxed)
    }

    pub(super) fn set_unrevoked_at(&self, change: u64) {
        self.unrevoked_at.store(change, Ordering::Relaxed);
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
