//! Measures a token check: new tokens and known ones, compared with the library alone and the bare primitive.
//!
//! `cargo bench --bench verify`. The ratios matter; the absolute figures depend on the machine.

#![allow(clippy::expect_used)] // a bench cannot go on if its setup fails

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Map, Value, json};
use shapegate::auth::keys::{Document, FetchError, JwksFetch, KeySet};
use shapegate::auth::{Algorithm, BearerToken, Check, TokenVerifier};
use shapegate::auth::{IssuerSettings, KeySource, RemoteKeys};
use shapegate::clock::SystemClock;
use shapegate::shape::ShapeClaims;

const ISSUER: &str = "https://auth.example.com";
const AUDIENCE: &str = "https://app.example.com";

/// A token, and every form of the key that checks it.
struct Sample {
    algorithm: Algorithm,
    token: String,
    jwk: Value,
    library_key: DecodingKey,
    library_algorithm: jsonwebtoken::Algorithm,
    primitive: ParsedPublicKey,
}

/// A fetcher that is never called, since the key is in the fixed set.
struct NoFetch;

#[async_trait]
impl JwksFetch for NoFetch {
    async fn fetch(&self, _: &RemoteKeys) -> Result<Document, FetchError> {
        Err(FetchError::Timeout)
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns a token of the usual size, about 700 bytes with RS256.
fn token(algorithm: Algorithm, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let header = json!({ "alg": algorithm.as_str(), "kid": "key-2026-11", "typ": "JWT" });
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "2f6f9a2e-6d5e-4f4e-9d2b-6c8b9d7f0a11", "iat": 1_790_000_000, "exp": 4_000_000_000_u64,
        "jti": "0f3c8a40-91c6-4d3e-8f4a-0d6f3b1c2a77", "organizationIds": ["org-1", "org-2", "org-3"], "roles": ["member"],
    });
    let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    format!("{message}.{}", encode(&sign(message.as_bytes())))
}

fn rs256() -> Sample {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("key generation");
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    let sign = |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("signing");
        signature
    };
    Sample {
        algorithm: Algorithm::Rs256,
        token: token(Algorithm::Rs256, sign),
        jwk: json!({ "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e) }),
        library_key: DecodingKey::from_rsa_raw_components(&public.n, &public.e),
        library_algorithm: jsonwebtoken::Algorithm::RS256,
        primitive: public.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).expect("a key"),
    }
}

fn es256() -> Sample {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("key generation");
    let point = pair.public_key().as_ref().to_vec();
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).expect("signing").as_ref().to_vec();
    Sample {
        algorithm: Algorithm::Es256,
        token: token(Algorithm::Es256, sign),
        jwk: json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) }),
        library_key: DecodingKey::from_ec_der(&point),
        library_algorithm: jsonwebtoken::Algorithm::ES256,
        primitive: ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).expect("a key"),
    }
}

fn eddsa() -> Sample {
    let pair = Ed25519KeyPair::generate().expect("key generation");
    let public = pair.public_key().as_ref().to_vec();
    Sample {
        algorithm: Algorithm::EdDsa,
        token: token(Algorithm::EdDsa, |message| pair.sign(message).as_ref().to_vec()),
        jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&public) }),
        library_key: DecodingKey::from_ed_der(&public),
        library_algorithm: jsonwebtoken::Algorithm::EdDSA,
        primitive: ParsedPublicKey::new(&ED25519, &public).expect("a key"),
    }
}

fn verifier(sample: &Sample, verdict_bytes: usize) -> TokenVerifier {
    let mut jwk = sample.jwk.clone();
    jwk["kid"] = "key-2026-11".into();
    let set = json!({ "keys": [jwk] }).to_string();
    let parsed = KeySet::parse(set.as_bytes(), &[sample.algorithm]).expect("a key set");
    let issuer = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned()],
        require: None,
        algorithms: vec![sample.algorithm],
        keys: KeySource { fixed: Some(parsed.set), ..KeySource::default() },
        introspection: None,
        leeway: Duration::ZERO,
        max_lifetime: None,
        types: vec!["jwt".to_owned()],
        cookie: None,
        shape_claims: ShapeClaims::Ignored,
    };
    TokenVerifier::new(vec![issuer], verdict_bytes, Arc::new(SystemClock), None, Arc::new(NoFetch)).expect("a verifier")
}

#[allow(clippy::disallowed_methods)] // the library, as the reference
fn library(sample: &Sample, validation: &Validation) {
    let claims = jsonwebtoken::decode::<Map<String, Value>>(&sample.token, &sample.library_key, validation);
    black_box(claims.expect("a valid token"));
}

#[allow(clippy::disallowed_methods)] // the primitive, as the other reference
fn bare_primitive(sample: &Sample) {
    let (message, signature) = sample.token.rsplit_once('.').expect("three parts");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    sample.primitive.verify_sig(message.as_bytes(), &signature).expect("a valid signature");
}

/// Verifies a token whose key is known. The future is ready at once, so no runtime is measured.
fn check(verifier: &TokenVerifier, text: &str) -> Check {
    let token = BearerToken::new(black_box(text)).expect("token68");
    let verified = pin!(verifier.verify(&token)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Ok(verified)) = verified else { panic!("a valid token whose key is known") };
    verified.check
}

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    for sample in [rs256(), es256(), eddsa()] {
        let id = |what| BenchmarkId::new(what, sample.algorithm);
        let (new, seen) = (verifier(&sample, 0), verifier(&sample, 1024 * 1024));
        check(&seen, &sample.token);
        let mut validation = Validation::new(sample.library_algorithm);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);

        group.bench_function(id("library"), |b| b.iter(|| library(&sample, &validation)));
        group.bench_function(id("primitive"), |b| b.iter(|| bare_primitive(&sample)));
        group.bench_function(id("new"), |b| b.iter(|| assert_eq!(check(&new, &sample.token), Check::New)));
        group.bench_function(id("seen"), |b| b.iter(|| assert_eq!(check(&seen, &sample.token), Check::Seen)));
        let parse = || BearerToken::new(black_box(&sample.token)).expect("token68");
        group.bench_function(id("bearer"), |b| b.iter(parse));
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
