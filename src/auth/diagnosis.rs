//! Says in words why a token is rejected: what it has, what its issuer accepts, and what to change.
//!
//! For operators only. It reads the token without verifying it, and shows names of issuers, audiences, algorithms and
//! keys, but no other claims.

use serde_json::{Map, Value};

use super::bearer::BearerToken;
use super::error::{InvalidReason, TokenError};
use super::http::MAX_SHOWN;
use super::issuer::TrustedIssuer;
use super::jws::Jws;
use super::verifier::TokenVerifier;

impl TokenVerifier {
    /// Explains an error of [`verify`](Self::verify) for this token; the error's own words if there is nothing to add.
    pub fn diagnose(&self, token: &BearerToken, error: TokenError) -> String {
        let TokenError::Invalid(reason) = error else { return error.to_string() };
        self.explain(token, reason).unwrap_or_else(|| error.to_string())
    }

    fn explain(&self, token: &BearerToken, reason: InvalidReason) -> Option<String> {
        let jws = Jws::parse(token.as_str()).ok()?;
        let claims = jws.unverified_claims().ok()?;
        let named = claims.get("iss");
        let issuer = self.issuer(named.and_then(Value::as_str));
        let Some(issuer) = issuer else { return Some(self.unknown_issuer(named)) };
        Some(match reason {
            InvalidReason::Algorithm => {
                let accepted: Vec<_> = issuer.algorithms().iter().map(|algorithm| algorithm.as_str()).collect();
                format!("its alg is {}; this issuer's algorithms are {accepted:?}", jws.header.algorithm)
            }
            InvalidReason::Audience => audience(&claims, issuer),
            InvalidReason::Issuer => "it came in a cookie that is not configured for its issuer".to_owned(),
            InvalidReason::Require => {
                let source = issuer.expectations.require.as_ref().map(|require| require.source().to_owned());
                format!("its claims do not fulfil require = {:?}", source.unwrap_or_default())
            }
            InvalidReason::Type => {
                let typ = jws.header.typ.as_deref().map(shown);
                format!("its typ is {typ:?}; this issuer's types are {:?}", issuer.types())
            }
            InvalidReason::UnknownKey => {
                let kid = jws.header.kid.as_deref().map(shown);
                format!("its kid is {kid:?}, which no key of this issuer has: is the key URL that of its issuer?")
            }
            InvalidReason::Expiry => "its exp is missing or not a number of seconds since 1970".to_owned(),
            InvalidReason::Lifetime => "it lives longer than max_lifetime, or has no iat".to_owned(),
            InvalidReason::Signature => "its signature was made with another key or secret".to_owned(),
            _ => return None,
        })
    }

    fn unknown_issuer(&self, named: Option<&Value>) -> String {
        let Some(named) = named.and_then(Value::as_str) else { return "it has no iss".to_owned() };
        let bare = |name: &str| name.trim_end_matches('/').to_ascii_lowercase();
        if let Some(near) = self.issuer_names().find(|name| bare(name) == bare(named)) {
            let named = shown(named);
            return format!("its iss is {named:?}, but the configuration has {near:?}: write issuer = {named:?}");
        }
        let known: Vec<_> = self.issuer_names().collect();
        format!("its iss is {:?}; the configured issuers are {known:?}", shown(named))
    }
}

fn audience(claims: &Map<String, Value>, issuer: &TrustedIssuer) -> String {
    let accepted = &issuer.expectations.audience;
    let Some(aud) = claims.get("aud") else {
        return format!(
            "it has no aud, and this issuer accepts {accepted:?}: let the issuer add it, or write a condition on another \
             claim as `require` instead of `audience`"
        );
    };
    let aud = shown(&aud.to_string());
    format!("its aud is {aud}; this issuer accepts {accepted:?}: let the issuer add one of them, or change `audience`")
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}
