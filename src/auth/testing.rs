//! Test keys, tokens and issuers, and a scripted JWKS endpoint.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair, RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::keys::{Document, FetchError, JwksFetch, KeySet};
use super::{Algorithm, BearerToken, Endpoint, IssuerSettings, KeySource, RemoteKeys, SharedSecret};
use crate::clock::UnixTime;
use crate::secret::Secret;
use crate::shape::ShapeClaims;

/// The time at which tests start.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(crate) const ISSUER: &str = "https://auth.example.com";
pub(crate) const AUDIENCE: &str = "https://app.example.com";
pub(crate) const SECRET: &str = "0123456789abcdef0123456789ABCDEF";

/// A key pair that signs test tokens under one algorithm.
#[derive(Clone)]
pub(crate) struct TestKey {
    pub(crate) kid: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) pair: Pair,
}

#[derive(Clone)]
pub(crate) enum Pair {
    Ec(Arc<EcdsaKeyPair>, &'static str),
    Ed(Arc<Ed25519KeyPair>),
    Hmac(Vec<u8>),
    Rsa(&'static RsaKeyPair),
}

impl TestKey {
    pub(crate) fn ed25519(kid: &str) -> Self {
        Self::new(kid, Algorithm::EdDsa, Pair::Ed(Arc::new(Ed25519KeyPair::generate().unwrap())))
    }

    pub(crate) fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::new(kid, Algorithm::Es256, Pair::Ec(Arc::new(pair), "P-256"))
    }

    pub(crate) fn es384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self::new(kid, Algorithm::Es384, Pair::Ec(Arc::new(pair), "P-384"))
    }

    /// Makes an RSA key. All of them share one key pair, because generating one is slow.
    pub(crate) fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        static PAIR: OnceLock<RsaKeyPair> = OnceLock::new();
        let pair = PAIR.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        Self::new(kid, algorithm, Pair::Rsa(pair))
    }

    /// Returns the same key pair under another `kid`, or without one.
    pub(crate) fn named(&self, kid: Option<&str>) -> Self {
        Self { kid: kid.map(str::to_owned), ..self.clone() }
    }

    pub(crate) fn hmac(secret: &[u8]) -> Self {
        Self { kid: None, ..Self::new("", Algorithm::Hs256, Pair::Hmac(secret.to_vec())) }
    }

    fn new(kid: &str, algorithm: Algorithm, pair: Pair) -> Self {
        Self { kid: Some(kid.to_owned()), algorithm, pair }
    }

    /// Returns the public key as a JWK with `alg`, `kid` and `use`.
    pub(crate) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Ec(pair, curve) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(if *curve == "P-256" { 32 } else { 48 });
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
            Pair::Hmac(secret) => json!({ "kty": "oct", "k": encode(secret) }),
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "n": encode(&public.n), "e": encode(&public.e) })
            }
        };
        jwk["alg"] = self.algorithm.as_str().into();
        jwk["use"] = "sig".into();
        if let Some(kid) = &self.kid {
            jwk["kid"] = kid.as_str().into();
        }
        jwk
    }

    /// Signs a token with exactly this header and payload.
    pub(crate) fn sign_text(&self, header: &str, payload: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign_bytes(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// Signs a token with these claims, and this key's `alg` and `kid` in the header.
    pub(crate) fn sign(&self, claims: &Value) -> BearerToken {
        let mut header = json!({ "alg": self.algorithm.as_str() });
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        bearer(&self.sign_text(&header.to_string(), claims.to_string().as_bytes()))
    }

    fn hash(&self) -> hmac::Algorithm {
        match self.algorithm {
            Algorithm::Hs256 => hmac::HMAC_SHA256,
            Algorithm::Hs384 => hmac::HMAC_SHA384,
            Algorithm::Hs512 => hmac::HMAC_SHA512,
            other => panic!("{other} is not HMAC"),
        }
    }

    fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Hmac(secret) => hmac::sign(&hmac::Key::new(self.hash(), secret), message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(self.algorithm), &random, message, &mut signature).unwrap();
                signature
            }
        }
    }
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Ps256 => &RSA_PSS_SHA256,
        Algorithm::Ps384 => &RSA_PSS_SHA384,
        Algorithm::Ps512 => &RSA_PSS_SHA512,
        Algorithm::Rs256 => &RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_SHA512,
        other => panic!("{other} is not RSA"),
    }
}

pub(crate) fn bearer(text: &str) -> BearerToken {
    BearerToken::new(text).unwrap()
}

/// Returns claims that are valid for 100 s.
pub(crate) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "exp": NOW.as_secs() + 100, "iat": NOW.as_secs() })
}

pub(crate) fn jwks(keys: &[&TestKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Returns an issuer that accepts every public-key algorithm, without leeway.
pub(crate) fn issuer(keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned()],
        require: None,
        algorithms: Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()).collect(),
        keys,
        introspection: None,
        leeway: Duration::ZERO,
        max_lifetime: None,
        types: vec!["jwt".to_owned(), "at+jwt".to_owned()],
        cookie: None,
        shape_claims: ShapeClaims::Ignored,
    }
}

pub(crate) fn shared_issuer(secret: &str) -> IssuerSettings {
    IssuerSettings { algorithms: vec![Algorithm::Hs256], ..issuer(shared(Algorithm::Hs256, secret)) }
}

pub(crate) fn shared(algorithm: Algorithm, secret: &str) -> KeySource {
    let shared = SharedSecret { algorithm, secret: Secret::new(secret) };
    KeySource { shared: vec![shared], ..KeySource::default() }
}

pub(crate) fn fixed(keys: &[&TestKey]) -> KeySource {
    let parsed = KeySet::parse(jwks(keys).as_bytes(), &Algorithm::ALL).unwrap();
    KeySource { fixed: Some(parsed.set), ..KeySource::default() }
}

/// Returns an endpoint with a refresh of 10 min and a cool-down of 30 s; its keys are stale after 1 h.
pub(crate) fn remote_keys() -> RemoteKeys {
    RemoteKeys {
        endpoint: Endpoint {
            url: "https://auth.example.com/jwks".parse().unwrap(),
            timeout: Duration::from_secs(5),
            private_address: false,
            plain_http: false,
            ca: Vec::new(),
        },
        metadata_of: None,
        refresh: Duration::from_secs(600),
        cooldown: Duration::from_secs(30),
        max_stale: Duration::from_secs(3600),
    }
}

pub(crate) fn remote() -> KeySource {
    KeySource { remote: Some(remote_keys()), ..KeySource::default() }
}

/// An endpoint that returns its responses in order and then repeats the last one. Each waits for a permit of the gate.
pub(crate) struct ScriptedFetch {
    answers: Mutex<VecDeque<Result<String, FetchError>>>,
    gate: Semaphore,
    calls: AtomicUsize,
}

impl ScriptedFetch {
    /// Creates an endpoint that responds at once.
    pub(crate) fn open(answers: impl IntoIterator<Item = Result<String, FetchError>>) -> Arc<Self> {
        let fetch = Self::closed(answers);
        fetch.let_through(1_000_000);
        fetch
    }

    /// Creates an endpoint that responds only when [`let_through`](Self::let_through) permits it.
    pub(crate) fn closed(answers: impl IntoIterator<Item = Result<String, FetchError>>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, gate: Semaphore::new(0), calls: AtomicUsize::new(0) })
    }

    pub(crate) fn let_through(&self, answers: usize) {
        self.gate.add_permits(answers);
    }

    /// The number of fetches started.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Makes the endpoint return only this response from now on.
    pub(crate) fn now_answers(&self, answer: Result<String, FetchError>) {
        *self.answers.lock().unwrap() = VecDeque::from([answer]);
    }
}

#[async_trait]
impl JwksFetch for ScriptedFetch {
    async fn fetch(&self, _: &RemoteKeys) -> Result<Document, FetchError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.unwrap().map(|body| Document { body: body.into_bytes(), max_age: None })
    }
}

/// Returns `length` random bytes.
pub(crate) fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes).unwrap();
    bytes
}
