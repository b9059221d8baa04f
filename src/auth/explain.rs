//! Says what a rejected token has and what its issuer expects: for people who ask, never for clients.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::claims::Claims;
use super::error::{InvalidReason, TokenError};
use super::issuer::TrustedIssuer;
use super::verifier::TokenVerifier;
use crate::clock::UnixTime;
use crate::json;

/// The parts of a token that can be read without a key. Nothing here proves anything.
struct Unverified {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl TokenVerifier {
    /// Fetches the keys of the issuer that the token names, so that the token is judged as in a server that has run for a
    /// while. If that fails, [`verify`](Self::verify) says so.
    pub async fn fetch_keys_for(&self, token: &BearerToken) {
        let found = Unverified::read(token.as_str());
        let issuer = found.claims.get("iss").and_then(|name| self.issuer(name.as_str()?));
        if let Some(remote) = issuer.and_then(TrustedIssuer::remote) {
            let _ = remote.demand().await;
        }
    }

    /// Explains why `token` is rejected at `now`: the value found and what its issuer takes. `None` if the error says
    /// all.
    pub fn explain(&self, token: &BearerToken, error: TokenError, now: UnixTime) -> Option<String> {
        let found = Unverified::read(token.as_str());
        let named = found.claims.get("iss").and_then(Value::as_str);
        let Some(issuer) = named.and_then(|name| self.issuer(name)) else {
            let known: Vec<_> = self.names().collect();
            let known = near(named, &known).unwrap_or_else(|| format!("the issuers are {}", quoted(&known)));
            return (error == InvalidReason::Issuer.into())
                .then(|| format!("iss {}; {known}", is(found.claims.get("iss"))));
        };
        match error {
            TokenError::Expired => Some(found.date("exp", now)),
            TokenError::Invalid(reason) => found.explain(reason, issuer, now),
            TokenError::KeysUnavailable { .. } | TokenError::Unavailable { .. } => None,
        }
    }
}

impl Unverified {
    fn read(token: &str) -> Self {
        let mut parts = token.split('.').map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
            json::parse_object(&bytes).unwrap_or_default()
        });
        Self { header: parts.next().unwrap_or_default(), claims: parts.next().unwrap_or_default() }
    }

    fn explain(&self, reason: InvalidReason, issuer: &TrustedIssuer, now: UnixTime) -> Option<String> {
        Some(match reason {
            InvalidReason::Algorithm => {
                format!("alg {}; this issuer takes {}", is(self.header.get("alg")), listed(issuer.algorithms()))
            }
            InvalidReason::AlgorithmMismatch | InvalidReason::AmbiguousKey | InvalidReason::UnknownKey => {
                let kids = issuer.kids(now);
                format!("kid {}; the keys of this issuer are {}", is(self.header.get("kid")), quoted(&kids))
            }
            InvalidReason::Audience => {
                let takes = quoted(&issuer.expectations.audience);
                let aud = self.claims.get("aud");
                let remedy = if aud.is_some() { ADD_AUDIENCE } else { NO_AUDIENCE };
                format!("aud {}; this issuer takes {takes}: {remedy}", is(aud))
            }
            InvalidReason::Require => {
                let require = issuer.expectations.require.as_ref()?;
                let found = require.operands(&Claims::new(self.claims.clone())).join(", ");
                format!("the claims do not fulfil require = {:?}: {found}", require.source())
            }
            InvalidReason::Signature => "it was signed with another key or secret than this issuer's".to_owned(),
            InvalidReason::Issuer => "it came in a cookie that is not this issuer's".to_owned(),
            InvalidReason::Type => {
                format!("typ {}; this issuer takes {}", is(self.header.get("typ")), quoted(issuer.types()))
            }
            InvalidReason::Expiry => self.date("exp", now),
            InvalidReason::IssuedAt => self.date("iat", now),
            InvalidReason::NotBefore => self.date("nbf", now),
            InvalidReason::Lifetime => {
                let longest = issuer.expectations.max_lifetime?.as_secs();
                let (issued, expires) = (is(self.claims.get("iat")), is(self.claims.get("exp")));
                format!("iat {issued} and exp {expires}; this issuer takes {longest} s between them")
            }
            InvalidReason::Subject => format!("sub {}; it must be a string", is(self.claims.get("sub"))),
            _ => return None,
        })
    }

    fn date(&self, name: &str, now: UnixTime) -> String {
        format!("{name} {}; the time is {}", is(self.claims.get(name)), now.as_secs())
    }
}

const ADD_AUDIENCE: &str = "let the issuer add one of these, or change `audience`";
const NO_AUDIENCE: &str =
    "let the issuer add it, or write a condition on another claim as `require` instead of `audience`";

/// Names a configured issuer that differs only by a slash at the end or by case.
fn near(named: Option<&str>, known: &[&str]) -> Option<String> {
    let bare = |name: &str| name.trim_end_matches('/').to_ascii_lowercase();
    let near = known.iter().find(|name| named.is_some_and(|named| bare(named) == bare(name)))?;
    Some(format!("the configuration has {near:?}: write the token's, exactly"))
}

/// Writes a value found, at most 200 characters of it.
fn is(value: Option<&Value>) -> String {
    let Some(value) = value else { return "is missing".to_owned() };
    format!("is {}", value.to_string().chars().take(200).collect::<String>())
}

fn quoted(names: &[impl AsRef<str>]) -> String {
    let names: Vec<_> = names.iter().map(|name| Value::from(name.as_ref()).to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn listed(names: &[impl ToString]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
