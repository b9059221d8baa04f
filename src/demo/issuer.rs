//! A token issuer for tests and the demo: one Ed25519 key, its JWKS, and tokens with any claims.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Signs tokens. Clones share the key.
#[derive(Clone, Debug)]
pub struct Issuer {
    name: Arc<str>,
    key: Arc<Mutex<Key>>,
}

#[derive(Debug)]
struct Key {
    id: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    /// Makes an issuer with a new key. Its tokens have `name` as `iss`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(name: &str) -> Result<Self, Unspecified> {
        Ok(Self { name: name.into(), key: Arc::new(Mutex::new(Key::generate(1)?)) })
    }

    /// Returns the `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a token with these claims, signed with the current key. An `iss` among them replaces the issuer's own.
    pub fn sign(&self, claims: &Value) -> String {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut payload = json!({ "iss": &*self.name });
        if let (Some(payload), Some(claims)) = (payload.as_object_mut(), claims.as_object()) {
            payload.extend(claims.clone());
        }
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.id });
        let signed = format!("{}.{}", encode(header.to_string()), encode(payload.to_string()));
        let signature = key.pair.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    /// Returns the key set in the form that `jwks.url` serves.
    pub fn jwks(&self) -> Value {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let x = encode(key.pair.public_key());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id, "x": x }] })
    }

    /// Replaces the key by a new one with another `kid`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn rotate(&self) -> Result<(), Unspecified> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let number = key.id.trim_start_matches("key-").parse::<u32>().unwrap_or(0);
        *key = Key::generate(number + 1)?;
        Ok(())
    }
}

impl Key {
    fn generate(number: u32) -> Result<Self, Unspecified> {
        Ok(Self { id: format!("key-{number}"), pair: Ed25519KeyPair::generate()? })
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
