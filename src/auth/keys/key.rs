//! Parses and checks one JSON Web Key, and verifies signatures with it (RFC 7517 section 4, RFC 7518 section 6).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self as primitives, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm as LibraryAlgorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::auth::{Algorithm, SharedSecret};

/// The longest RSA public exponent, in bytes. 65537 is the usual one; a huge one makes each verification slow.
const MAX_EXPONENT_BYTES: usize = 4;

/// Secrets published in documentation that are long enough to pass the length check (docs/security.md, T4).
const KNOWN_SECRETS: [&str; 5] = [
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    "a-string-secret-at-least-256-bits-long",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-256-bit-secret-your-256-bit-secret",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
];

/// A key that verifies signatures of exactly one algorithm.
pub(crate) struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    material: Material,
    /// The public members that are used, without any others; `None` for a shared secret.
    public: Option<Map<String, Value>>,
}

/// The key material, parsed once for all verifications.
enum Material {
    Public(ParsedPublicKey),
    /// Zeroed in memory on drop.
    Shared(DecodingKey),
}

/// The signature was not made with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadSignature;

/// Why a key of a set is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRejection {
    /// None of the issuer's `algorithms` fits this key.
    #[error("no algorithm of this issuer fits the key")]
    Algorithm,
    /// It is an RSA key without `alg`, and the issuer accepts several RSA algorithms.
    #[error("the key names no alg and several of this issuer's algorithms fit it")]
    AlgorithmAmbiguous,
    /// `crv` is not P-256, P-384 or Ed25519.
    #[error("unsupported curve")]
    Curve,
    /// Another usable key of the set has the same `kid` and algorithm; neither is used.
    #[error("another key has the same kid and algorithm")]
    DuplicateKid,
    /// `e` is even, below 3 or longer than four bytes.
    #[error("unacceptable RSA exponent")]
    Exponent,
    /// `kid` is not a string.
    #[error("kid is not a string")]
    KeyId,
    /// `key_ops` is not an array that contains `verify`.
    #[error("key_ops does not allow verify")]
    KeyOperations,
    /// `kty` is not EC, OKP or RSA. A shared secret (`oct`) is never taken from a published set.
    #[error("unsupported key type")]
    KeyType,
    /// A member that the key type needs is missing or not base64url.
    #[error("a required member is missing or not base64url")]
    Malformed,
    /// `n` is even, or does not have 2048 to 8192 bits.
    #[error("the RSA modulus is even, or does not have 2048 to 8192 bits")]
    Modulus,
    /// The coordinates have the wrong length or are not on the curve.
    #[error("the coordinates are not a point on the curve")]
    Point,
    /// The private key is published with it, so anyone can sign.
    #[error("the private key is published")]
    Private,
    /// `use` is not `sig`.
    #[error("use is not sig")]
    Use,
}

/// The text is not acceptable as an HMAC secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret is shorter than the hash of its algorithm, one repeated byte, or a published example")]
pub(crate) struct WeakSecret;

impl Key {
    /// Parses one JWK and determines its algorithm, which must be one of `algorithms`.
    pub(super) fn from_jwk(jwk: &Value, algorithms: &[Algorithm]) -> Result<Self, KeyRejection> {
        let mut jwk = present_members(jwk.as_object().ok_or(KeyRejection::Malformed)?);
        check_purpose(&jwk)?;
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or(KeyRejection::KeyId)?.to_owned()),
        };
        let kind = Kind::of(&jwk)?;
        kind.normalize(&mut jwk);
        let algorithm = choose_algorithm(&jwk, kind, algorithms)?;
        let material = Material::Public(kind.parse(&jwk, algorithm)?);
        let public = Some(public_members(&jwk, kind, algorithm));
        Ok(Self { algorithm, kid, material, public })
    }

    /// Makes a key of a shared secret; rejects weak secrets (docs/security.md, T4) and public-key algorithms.
    pub(crate) fn shared(shared: &SharedSecret) -> Result<Self, WeakSecret> {
        let text = shared.secret.expose();
        let least = shared.algorithm.secret_bytes().ok_or(WeakSecret)?;
        let same_byte = text.bytes().all(|byte| text.as_bytes().first() == Some(&byte));
        if text.len() < least || same_byte || KNOWN_SECRETS.contains(&text) {
            return Err(WeakSecret);
        }
        Ok(Self::of_secret(shared.algorithm, text.as_bytes()))
    }

    /// Makes an HMAC key of any bytes, because the secrets of published test vectors are not text.
    #[cfg(test)]
    pub(crate) fn for_vectors(secret: &[u8]) -> Self {
        Self::of_secret(Algorithm::Hs256, secret)
    }

    fn of_secret(algorithm: Algorithm, secret: &[u8]) -> Self {
        let material = Material::Shared(DecodingKey::from_secret(secret));
        Self { algorithm, kid: None, material, public: None }
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(super) const fn public(&self) -> Option<&Map<String, Value>> {
        self.public.as_ref()
    }

    /// Whether both keys verify exactly the same tokens.
    pub(crate) fn is(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other) || (self.kid == other.kid && self.public.is_some() && self.public == other.public)
    }

    /// Verifies a base64url signature of `message`. This is the only place that verifies signatures.
    ///
    /// The library compares HMACs in constant time (docs/security.md, T20).
    #[allow(clippy::disallowed_methods)] // the only place that may call them
    pub(crate) fn verify(&self, message: &str, signature: &str) -> Result<(), BadSignature> {
        let message = message.as_bytes();
        let holds = match &self.material {
            Material::Public(key) => {
                let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadSignature)?;
                key.verify_sig(message, &signature).is_ok()
            }
            Material::Shared(key) => {
                let algorithm = hmac(self.algorithm);
                algorithm
                    .is_some_and(|hmac| matches!(jsonwebtoken::crypto::verify(signature, message, key, hmac), Ok(true)))
            }
        };
        if holds { Ok(()) } else { Err(BadSignature) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {:?})", self.algorithm, self.kid)
    }
}

/// The kind of a key, from `kty` and `crv`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    Rsa,
}

impl Kind {
    fn of(jwk: &Map<String, Value>) -> Result<Self, KeyRejection> {
        let text = |name| jwk.get(name).and_then(Value::as_str);
        match (text("kty"), text("crv")) {
            (Some("RSA"), _) => Ok(Self::Rsa),
            (Some("EC"), Some("P-256")) => Ok(Self::P256),
            (Some("EC"), Some("P-384")) => Ok(Self::P384),
            (Some("OKP"), Some("Ed25519")) => Ok(Self::Ed25519),
            (Some("EC" | "OKP"), _) => Err(KeyRejection::Curve),
            _ => Err(KeyRejection::KeyType),
        }
    }

    fn fits(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Ed25519 => algorithm == Algorithm::EdDsa,
            Self::P256 => algorithm == Algorithm::Es256,
            Self::P384 => algorithm == Algorithm::Es384,
            Self::Rsa => rsa_parameters(algorithm).is_some(),
        }
    }

    /// The members of the public key, without `kty`.
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Ed25519 => &["crv", "x"],
            Self::P256 | Self::P384 => &["crv", "x", "y"],
            Self::Rsa => &["e", "n"],
        }
    }

    /// The members that are numbers, and their length in bytes; 0 for the shortest one (RFC 7518 sections 6.2 and 6.3).
    const fn numbers(self) -> (&'static [&'static str], usize) {
        match self {
            Self::Ed25519 => (&[], 0),
            Self::P256 => (&["x", "y"], 32),
            Self::P384 => (&["x", "y"], 48),
            Self::Rsa => (&["n", "e"], 0),
        }
    }

    /// Writes every number with its proper length. Some issuers publish leading zero octets, or leave them out.
    fn normalize(self, jwk: &mut Map<String, Value>) {
        let (names, length) = self.numbers();
        for name in names {
            // What is not a number is rejected by `parse`.
            let Ok(bytes) = bytes(jwk, name) else { continue };
            let Some(first) = bytes.iter().position(|byte| *byte != 0) else { continue };
            let digits = bytes.split_at(first).1;
            let padded = [vec![0; length.saturating_sub(digits.len())], digits.to_vec()].concat();
            jwk.insert((*name).to_owned(), URL_SAFE_NO_PAD.encode(padded).into());
        }
    }

    fn parse(self, jwk: &Map<String, Value>, algorithm: Algorithm) -> Result<ParsedPublicKey, KeyRejection> {
        match self {
            Self::Ed25519 => point(&primitives::ED25519, &coordinate(jwk, "x", 32)?),
            Self::P256 => elliptic(jwk, 32, &primitives::ECDSA_P256_SHA256_FIXED),
            Self::P384 => elliptic(jwk, 48, &primitives::ECDSA_P384_SHA384_FIXED),
            Self::Rsa => rsa(jwk, rsa_parameters(algorithm).ok_or(KeyRejection::Algorithm)?),
        }
    }
}

/// The library's name of an HMAC algorithm; `None` for a public-key algorithm.
const fn hmac(algorithm: Algorithm) -> Option<LibraryAlgorithm> {
    match algorithm {
        Algorithm::Hs256 => Some(LibraryAlgorithm::HS256),
        Algorithm::Hs384 => Some(LibraryAlgorithm::HS384),
        Algorithm::Hs512 => Some(LibraryAlgorithm::HS512),
        _ => None,
    }
}

/// The RSA parameters of this algorithm; `None` if it is not an RSA algorithm.
const fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Ps256 => Some(&primitives::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&primitives::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&primitives::RSA_PSS_2048_8192_SHA512),
        Algorithm::Rs256 => Some(&primitives::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&primitives::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&primitives::RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

/// Returns the members that are not null. Some issuers write null for an absent one.
fn present_members(jwk: &Map<String, Value>) -> Map<String, Value> {
    jwk.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Checks `use` and `key_ops`, and that there is no private key (RFC 7517 sections 4.2 and 4.3).
fn check_purpose(jwk: &Map<String, Value>) -> Result<(), KeyRejection> {
    if jwk.get("use").is_some_and(|usage| usage != "sig") {
        return Err(KeyRejection::Use);
    }
    let verifies = |operations: &Value| operations.as_array().is_some_and(|list| list.iter().any(|op| op == "verify"));
    if jwk.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err(KeyRejection::KeyOperations);
    }
    if jwk.contains_key("d") { Err(KeyRejection::Private) } else { Ok(()) }
}

/// Chooses a key's algorithm: its `alg`, or the only accepted algorithm that fits the key.
fn choose_algorithm(jwk: &Map<String, Value>, kind: Kind, accepted: &[Algorithm]) -> Result<Algorithm, KeyRejection> {
    let named = match jwk.get("alg") {
        None => None,
        Some(alg) => {
            let name = alg.as_str().ok_or(KeyRejection::Algorithm)?;
            Some(name.parse::<Algorithm>().map_err(|_| KeyRejection::Algorithm)?)
        }
    };
    let fits = |candidate: &Algorithm| kind.fits(*candidate) && named.is_none_or(|named| named == *candidate);
    let mut candidates = Algorithm::ALL.into_iter().filter(|algorithm| accepted.contains(algorithm) && fits(algorithm));
    let algorithm = candidates.next().ok_or(KeyRejection::Algorithm)?;
    if candidates.next().is_some() { Err(KeyRejection::AlgorithmAmbiguous) } else { Ok(algorithm) }
}

fn elliptic(
    jwk: &Map<String, Value>,
    length: usize,
    algorithm: &'static dyn VerificationAlgorithm,
) -> Result<ParsedPublicKey, KeyRejection> {
    let uncompressed = [vec![4], coordinate(jwk, "x", length)?, coordinate(jwk, "y", length)?].concat();
    point(algorithm, &uncompressed)
}

fn point(algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Result<ParsedPublicKey, KeyRejection> {
    ParsedPublicKey::new(algorithm, bytes).map_err(|_| KeyRejection::Point)
}

fn rsa(jwk: &Map<String, Value>, parameters: &'static RsaParameters) -> Result<ParsedPublicKey, KeyRejection> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !odd(&n) || !(2048..=8192).contains(&bits) {
        return Err(KeyRejection::Modulus);
    }
    if !odd(&e) || e == [1] || e.len() > MAX_EXPONENT_BYTES {
        return Err(KeyRejection::Exponent);
    }
    let components = RsaPublicKeyComponents { n: &n, e: &e };
    components.to_parsed_public_key(parameters).map_err(|_| KeyRejection::Modulus)
}

fn coordinate(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, KeyRejection> {
    Some(bytes(jwk, name)?).filter(|bytes| bytes.len() == length).ok_or(KeyRejection::Point)
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeyRejection> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or(KeyRejection::Malformed)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyRejection::Malformed)?;
    if bytes.is_empty() { Err(KeyRejection::Malformed) } else { Ok(bytes) }
}

fn public_members(jwk: &Map<String, Value>, kind: Kind, algorithm: Algorithm) -> Map<String, Value> {
    let names = ["kid", "kty"].iter().chain(kind.members());
    let read = names.filter_map(|name| Some(((*name).to_owned(), jwk.get(*name)?.clone())));
    let ours = [("alg", algorithm.as_str()), ("use", "sig")];
    read.chain(ours.map(|(name, value)| (name.to_owned(), value.into()))).collect()
}
