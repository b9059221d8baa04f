use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::auth::keys::FetchError;
use crate::auth::testing::{
    self, AUDIENCE, ISSUER, NOW, SECRET, ScriptedFetch, TestKey, bearer, claims, fixed, issuer, jwks, remote, shared,
    shared_issuer,
};
use crate::auth::{Algorithm, IssuerError, IssuerSettings, KeySource};
use crate::clock::ManualClock;

mod forgery;
mod renewal;
mod successor;
mod vectors;
mod verdicts;

/// Memory for about 100 cached verdicts.
const BUDGET: usize = 256 * 1024;

/// A verifier with scripted key fetches and a manual clock.
struct Setup {
    verifier: Arc<TokenVerifier>,
    clock: Arc<ManualClock>,
    fetch: Arc<ScriptedFetch>,
}

fn try_new(issuers: Vec<IssuerSettings>) -> Result<TokenVerifier, VerifierError> {
    TokenVerifier::new(issuers, BUDGET, Arc::new(ManualClock::at(NOW)), None, ScriptedFetch::open([]))
}

fn setup_with(issuers: Vec<IssuerSettings>, verdict_bytes: usize, fetch: Arc<ScriptedFetch>) -> Setup {
    let clock = Arc::new(ManualClock::at(NOW));
    let verifier = TokenVerifier::new(issuers, verdict_bytes, clock.clone(), None, fetch.clone()).unwrap();
    Setup { verifier: Arc::new(verifier), clock, fetch }
}

fn setup(issuers: Vec<IssuerSettings>) -> Setup {
    setup_with(issuers, BUDGET, ScriptedFetch::open([Err(FetchError::Timeout)]))
}

impl Setup {
    async fn verify(&self, token: &BearerToken) -> Result<Check, TokenError> {
        self.verifier.verify(token).await.map(|verified| verified.check)
    }

    async fn invalid(&self, token: &BearerToken) -> InvalidReason {
        match self.verify(token).await {
            Err(TokenError::Invalid(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn pass(&self, seconds: u64) {
        self.clock.set(self.clock.now().saturating_add(Duration::from_secs(seconds)));
    }
}

fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn a_token_of_every_algorithm_is_accepted_and_then_seen() {
    let mut keys = vec![TestKey::ed25519("ed"), TestKey::es256("p256"), TestKey::es384("p384")];
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.as_str().as_bytes()[1] == b'S') {
        if matches!(algorithm.as_str().as_bytes()[0], b'R' | b'P') {
            keys.push(TestKey::rsa(algorithm.as_str(), algorithm));
        }
    }
    assert_eq!(keys.len(), 9);
    let setup = setup(vec![issuer(fixed(&keys.iter().collect::<Vec<_>>()))]);
    for key in &keys {
        let token = key.sign(&claims());
        assert_eq!(setup.verify(&token).await, Ok(Check::New), "{}", key.algorithm);
        assert_eq!(setup.verify(&token).await, Ok(Check::Seen), "{}", key.algorithm);
    }
    let shared = self::setup(vec![shared_issuer(SECRET)]);
    assert_eq!(shared.verify(&TestKey::hmac(SECRET.as_bytes()).sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.fetch.calls() + shared.fetch.calls(), 0);
}

#[tokio::test]
async fn a_principal_carries_what_the_token_proves() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![IssuerSettings { leeway: Duration::from_secs(10), ..issuer(fixed(&[&key])) }]);
    let token = key.sign(&with(&json!({ "orgs": ["a"] })));
    let principal = setup.verifier.verify(&token).await.unwrap().principal;
    assert_eq!((principal.issuer(), principal.subject()), (ISSUER, Some("user-1")));
    assert_eq!(principal.expires_at(), NOW.saturating_add(Duration::from_secs(110)));
    assert_eq!(principal.token_hash(), token.hash());
    let mut context = cel::Context::default();
    context.add_variable_as_val("claims", principal.claims().cel().clone_as_boxed());
    let same = cel::Program::compile("claims.orgs == ['a']").unwrap().execute(&context);
    assert_eq!(same.unwrap(), cel::Value::Bool(true));
    assert_eq!(format!("{principal:?}"), format!("Principal({} by {ISSUER})", token.hash()));
}

#[tokio::test]
async fn subject_keys_differ_by_issuer_and_subject_or_by_token() {
    let (key, other) = (TestKey::ed25519("k"), TestKey::ed25519("k"));
    let second = IssuerSettings { issuer: "https://other".to_owned(), ..issuer(fixed(&[&other])) };
    let setup = setup(vec![issuer(fixed(&[&key])), second]);
    let mut anonymous = claims();
    anonymous.as_object_mut().unwrap().remove("sub");
    let mut anonymous_too = anonymous.clone();
    anonymous_too["jti"] = "2".into();
    let tokens = [
        key.sign(&claims()),
        key.sign(&with(&json!({ "jti": "2" }))),
        key.sign(&with(&json!({ "sub": "user-2" }))),
        other.sign(&with(&json!({ "iss": "https://other" }))),
        key.sign(&anonymous),
        key.sign(&anonymous_too),
    ];
    let mut subjects = Vec::new();
    for token in &tokens {
        subjects.push(setup.verifier.verify(token).await.unwrap().principal.subject_key().clone());
    }
    assert!(subjects[0] == subjects[1]);
    assert_eq!(subjects.into_iter().collect::<HashSet<_>>().len(), 5);
}

#[test]
fn t4_weak_secrets_are_rejected_at_start() {
    for secret in ["", "a", &SECRET[..31], &"a".repeat(64), "a-string-secret-at-least-256-bits-long"] {
        let error = try_new(vec![shared_issuer(secret)]).err().unwrap();
        assert!(matches!(error, VerifierError::Issuer { reason: IssuerError::WeakSecret, .. }), "{secret}");
    }
    assert!(try_new(vec![shared_issuer(SECRET)]).is_ok());
}

#[test]
fn an_issuer_that_cannot_work_is_rejected_at_start() {
    let key = TestKey::ed25519("k");
    let good = || issuer(fixed(&[&key]));
    let cases = [
        (IssuerSettings { algorithms: vec![], ..good() }, IssuerError::Algorithms),
        (IssuerSettings { algorithms: vec![Algorithm::Hs256], ..good() }, IssuerError::Algorithms),
        (IssuerSettings { algorithms: vec![Algorithm::EdDsa, Algorithm::Hs256], ..good() }, IssuerError::Algorithms),
        (IssuerSettings { keys: shared(Algorithm::Hs256, SECRET), ..good() }, IssuerError::Algorithms),
        (IssuerSettings { audience: vec![], ..good() }, IssuerError::NoAudience),
        (IssuerSettings { keys: KeySource::default(), ..good() }, IssuerError::NoKeys),
    ];
    for (issuer, expected) in cases {
        match try_new(vec![issuer]).err() {
            Some(VerifierError::Issuer { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
    }
    let twice = try_new(vec![good(), good()]).err();
    assert_eq!(twice, Some(VerifierError::DuplicateIssuer(ISSUER.to_owned())));
}

#[tokio::test]
async fn expired_is_reported_only_if_the_signature_is_valid() {
    let (key, stranger) = (TestKey::ed25519("k"), TestKey::ed25519("k"));
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let expired = with(&json!({ "exp": NOW.as_secs() - 1 }));
    assert_eq!(setup.verify(&key.sign(&expired)).await, Err(TokenError::Expired));
    assert_eq!(setup.invalid(&stranger.sign(&expired)).await, InvalidReason::Signature);
}

#[tokio::test]
async fn t14_issuer_and_audience_are_compared_exactly() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let mut without = claims();
    without.as_object_mut().unwrap().remove("iss");
    assert_eq!(setup.invalid(&key.sign(&without)).await, InvalidReason::Issuer);
    let slash = format!("{ISSUER}/");
    for iss in [json!([ISSUER]), json!(1), json!(null), json!(slash), json!(ISSUER.to_uppercase()), json!("")] {
        assert_eq!(setup.invalid(&key.sign(&with(&json!({ "iss": iss })))).await, InvalidReason::Issuer);
    }
    let mut without = claims();
    without.as_object_mut().unwrap().remove("aud");
    assert_eq!(setup.invalid(&key.sign(&without)).await, InvalidReason::Audience);
}

#[tokio::test]
async fn t14_a_key_verifies_tokens_of_its_own_issuer_only() {
    let (a, b, shared) = (TestKey::ed25519("k"), TestKey::ed25519("k"), TestKey::hmac(SECRET.as_bytes()));
    let second = IssuerSettings { issuer: "https://b".to_owned(), ..issuer(fixed(&[&b])) };
    let third = IssuerSettings { issuer: "https://c".to_owned(), ..shared_issuer(SECRET) };
    let setup = setup(vec![issuer(fixed(&[&a])), second, third]);
    let from = |iss: &str| with(&json!({ "iss": iss }));
    for (key, own) in [(&a, ISSUER), (&b, "https://b"), (&shared, "https://c")] {
        for iss in [ISSUER, "https://b", "https://c"] {
            let result = setup.verify(&key.sign(&from(iss))).await;
            if iss == own {
                assert_eq!(result, Ok(Check::New), "{iss}");
            } else {
                assert!(matches!(result, Err(TokenError::Invalid(_))), "{iss}");
            }
        }
    }
}

#[test]
fn every_reason_has_its_own_label() {
    let labels = [InvalidReason::Algorithm, InvalidReason::UnknownKey].map(InvalidReason::as_str);
    assert_eq!(labels, ["algorithm", "kid_unknown"]);
    assert_eq!(TokenError::from(InvalidReason::Audience).to_string(), "the token is invalid: audience");
}
