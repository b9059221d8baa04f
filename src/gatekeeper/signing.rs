//! Signs shape tokens, and publishes the public key.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::auth::Algorithm;
use crate::digest::sha256;
use crate::secret::Secret;

/// A key that signs with exactly one algorithm.
pub enum SigningKey {
    /// HS256. Anyone who can verify can also sign.
    Shared {
        /// The secret, for the verifier.
        secret: Secret,
        /// The secret, prepared for signing.
        key: Box<hmac::Key>,
    },
    /// EdDSA or ES256. The public key may be published.
    Pair {
        /// The key pair that signs.
        pair: Pair,
        /// The public key as a JSON Web Key (RFC 7517). Its `kid` is its thumbprint (RFC 7638).
        jwk: Value,
    },
}

/// A key pair, named by its curve.
#[allow(missing_docs)]
pub enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(Box<EcdsaKeyPair>),
}

/// The text is not a supported private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a private key for EdDSA (Ed25519) or ES256 (P-256) in PKCS#8, PEM: `openssl genpkey -algorithm ed25519`")]
pub struct NoSigningKey;

impl SigningKey {
    /// Creates a key for HS256. It does not check the secret's strength; the verifier does.
    pub fn shared(secret: Secret) -> Self {
        let key = Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()));
        Self::Shared { secret, key }
    }

    /// Parses the private key of a PEM file (RFC 7468 section 10, PKCS#8 without encryption).
    ///
    /// # Errors
    /// [`NoSigningKey`] for everything else. It does not show the text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, NoSigningKey> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| NoSigningKey)?;
        let der = key.secret_pkcs8_der();
        let pair = Ed25519KeyPair::from_pkcs8(der).map(Pair::Ed25519).or_else(|_| {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(|pair| Pair::P256(Box::new(pair)))
        });
        let pair = pair.map_err(|_| NoSigningKey)?;
        let jwk = pair.jwk().ok_or(NoSigningKey)?;
        Ok(Self::Pair { pair, jwk })
    }

    /// The `alg` of its tokens.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Shared { .. } => Algorithm::Hs256,
            Self::Pair { pair: Pair::Ed25519(_), .. } => Algorithm::EdDsa,
            Self::Pair { pair: Pair::P256(_), .. } => Algorithm::Es256,
        }
    }

    /// Returns the public key as a JSON Web Key Set; `None` for a shared secret.
    pub fn jwks(&self) -> Option<Value> {
        match self {
            Self::Shared { .. } => None,
            Self::Pair { jwk, .. } => Some(json!({ "keys": [jwk] })),
        }
    }

    /// Signs a token of this type with these claims (RFC 7515 section 3.1); `None` if the library fails to sign.
    pub fn token(&self, typ: &str, claims: &Value) -> Option<String> {
        let mut header = json!({ "alg": self.algorithm().as_str(), "typ": typ });
        if let Self::Pair { jwk, .. } = self {
            header["kid"] = jwk["kid"].clone();
        }
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match self {
            Self::Shared { key, .. } => encode(hmac::sign(key, message.as_bytes())),
            Self::Pair { pair: Pair::Ed25519(pair), .. } => encode(pair.sign(message.as_bytes())),
            Self::Pair { pair: Pair::P256(pair), .. } => {
                encode(pair.sign(&SystemRandom::new(), message.as_bytes()).ok()?)
            }
        };
        Some(format!("{message}.{signature}"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

impl Pair {
    /// Returns the public key as a JWK (RFC 7518 section 6.2, RFC 8037 section 2).
    fn jwk(&self) -> Option<Value> {
        // The thumbprint needs the members in the order of their names (RFC 7638 section 3.2).
        let (mut jwk, algorithm) = match self {
            Self::Ed25519(pair) => {
                (json!({ "crv": "Ed25519", "kty": "OKP", "x": encode(pair.public_key()) }), Algorithm::EdDsa)
            }
            Self::P256(pair) => {
                // An uncompressed point (SEC 1 section 2.3.3): 0x04, then both coordinates.
                let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
                (json!({ "crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y) }), Algorithm::Es256)
            }
        };
        let thumbprint = encode(sha256(jwk.to_string()));
        jwk["alg"] = algorithm.as_str().into();
        jwk["use"] = "sig".into();
        jwk["kid"] = thumbprint.into();
        Some(jwk)
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
