//! The memory of cached verdicts, measured by a counting allocator in a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy's exception for tests does not cover helper functions

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cap::Cap;
use serde_json::{Value, json};
use shapegate::auth::keys::{Document, FetchError, JwksFetch};
use shapegate::auth::{Algorithm, BearerToken, IssuerSettings, KeySource, RemoteKeys, SharedSecret, TokenVerifier};
use shapegate::clock::SystemClock;
use shapegate::secret::Secret;
use shapegate::shape::ShapeClaims;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const SECRET: &str = "0123456789abcdef0123456789ABCDEF";
/// Memory for cached verdicts. Without a bound in bytes, 2,000 tokens of 8 KiB took a hundred times as much.
const BUDGET: usize = 4 * 1024 * 1024;

struct NoFetch;

#[async_trait]
impl JwksFetch for NoFetch {
    async fn fetch(&self, _: &RemoteKeys) -> Result<Document, FetchError> {
        Err(FetchError::Timeout)
    }
}

fn verifier(budget: usize) -> TokenVerifier {
    let issuer = IssuerSettings {
        issuer: "a".to_owned(),
        audience: vec!["b".to_owned()],
        algorithms: vec![Algorithm::Hs256],
        keys: KeySource {
            shared: vec![SharedSecret { algorithm: Algorithm::Hs256, secret: Secret::new(SECRET) }],
            ..KeySource::default()
        },
        introspection: None,
        require: None,
        cookie: None,
        leeway: Duration::ZERO,
        max_lifetime: None,
        types: Vec::new(),
        shape_claims: ShapeClaims::Honoured,
    };
    TokenVerifier::new(vec![issuer], budget, Arc::new(SystemClock), None, Arc::new(NoFetch)).unwrap()
}

/// Signs a token with this claim, which no other number has.
fn token(number: usize, name: &str, value: &str) -> BearerToken {
    let claims = format!(r#"{{"iss":"a","aud":"b","exp":99999999999,"sub":"user-{number}","{name}":{value}}}"#);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    BearerToken::new(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))).unwrap()
}

/// Joins as many elements as a token of `bytes` has room for.
fn fill(bytes: usize, element: impl Fn(usize) -> String) -> String {
    // Base64 takes a third more, and the rest of the token about 200 bytes.
    let mut text = String::new();
    for number in 0.. {
        let next = element(number);
        if text.len() + next.len() + 1 > (bytes - 200) * 3 / 4 {
            return text;
        }
        text += if number == 0 { "" } else { "," };
        text += &next;
    }
    text
}

#[tokio::test]
async fn cached_verdicts_stay_within_their_budget_whatever_the_tokens_hold() {
    let column = |number: usize| format!("\"{number:x}\"");
    let shape = format!(r#"{{"table":"t","columns":[{}]}}"#, fill(8_000, column));
    let params = format!(r#"{{"table":"t","where":"x","params":[{}]}}"#, fill(8_000, |_| "1".to_owned()));
    for (tokens, name, value) in [
        (2_000, "objects", format!("[{}]", fill(8_192, |_| "{\"\":0}".to_owned()))),
        (300, "members", format!("{{{}}}", fill(8_192, |number| format!("\"{number:x}\":{{}}")))),
        (300, "lists", format!("[{}]", fill(8_192, |_| "[0]".to_owned()))),
        (300, "numbers", format!("[{}]", fill(8_192, |_| "1".to_owned()))),
        (300, "texts", format!("[{}]", fill(8_192, |_| "\"a\"".to_owned()))),
        (1_000, "text", format!("\"{}\"", "x".repeat(5_900))),
        (300, "shape", shape),
        (300, "shape", params),
        (6_000, "organizationIds", json!(["org-1", "org-2"]).to_string()),
        (6_000, "x", Value::Null.to_string()),
    ] {
        let verifier = verifier(BUDGET);
        let before = ALLOCATOR.allocated();
        for number in 0..tokens {
            verifier.verify(&token(number, name, &value)).await.unwrap();
        }
        let held = ALLOCATOR.allocated().saturating_sub(before);
        println!("{tokens} tokens with {name}: {} KiB", held / 1024);
        assert!(held <= BUDGET * 115 / 100, "{name}: {held} bytes");
        assert!(held >= BUDGET / 3, "{name}: {held} bytes, so the budget is not used");
    }
}
