//! What a token can be revoked by.

use serde_json::{Map, Value, json};

use crate::clock::UnixTime;

/// The claims of a token that a revocation can name. Those of a minted token are the user token's, so that it is revoked
/// together with that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenMarks {
    pub(super) issuer: Box<str>,
    pub(super) jti: Option<Box<str>>,
    pub(super) sid: Option<Box<str>>,
    pub(super) sub: Option<Box<str>>,
    pub(super) issued: Option<UnixTime>,
}

impl TokenMarks {
    /// The claim of a minted token that holds the marks of the user's token.
    pub(crate) const CLAIM: &str = "user_token";

    /// Reads the marks of a verified token.
    pub(crate) fn of(issuer: &str, claims: &Map<String, Value>) -> Self {
        let text = |name| match claims.get(name) {
            Some(Value::String(text)) => Some(text.as_str().into()),
            Some(Value::Number(number)) => Some(number.to_string().into()),
            _ => None,
        };
        let issued = claims.get("iat").and_then(|value| value.as_u64().or_else(|| rounded_down(value.as_f64()?)));
        Self {
            issuer: issuer.into(),
            jti: text("jti"),
            sid: text("sid"),
            sub: text("sub"),
            issued: issued.map(UnixTime::from_secs),
        }
    }

    /// Reads the marks that the gatekeeper wrote into a minted token; `None` if it was minted without a user.
    pub(crate) fn of_minted(claims: &Map<String, Value>) -> Option<Self> {
        let marks = claims.get(Self::CLAIM)?.as_object()?;
        Some(Self::of(marks.get("iss")?.as_str()?, marks))
    }

    /// The texts that take memory.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let optional = [&self.jti, &self.sid, &self.sub].into_iter().flatten();
        std::iter::once(&self.issuer).chain(optional).map(|text| &**text)
    }

    /// Returns the marks as [`Self::CLAIM`].
    pub(crate) fn to_claim(&self) -> Value {
        let mut claim = json!({ "iss": self.issuer });
        for (name, value) in [("jti", &self.jti), ("sid", &self.sid), ("sub", &self.sub)] {
            if let Some(value) = value {
                claim[name] = (&**value).into();
            }
        }
        if let Some(issued) = self.issued {
            claim["iat"] = issued.as_secs().into();
        }
        claim
    }
}

/// An `iat` was checked when its token was verified, so it fits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a float that does not fit saturates
fn rounded_down(seconds: f64) -> Option<u64> {
    (seconds >= 0.0).then_some(seconds as u64)
}
