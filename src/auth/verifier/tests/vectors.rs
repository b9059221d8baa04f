//! Runs third-party test vectors from `$SHAPEGATE_CORPORA`: Wycheproof and the JOSE cookbook (RFC 7520). See
//! CONTRIBUTING.md.
//!
//! Their payloads are not claims, so they run through the verifier's steps only up to the signature: parse, find the
//! key, verify.

use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::auth::jws::Jws;
use crate::auth::keys::{Key, KeySet};

/// Vectors marked valid that are rejected on purpose: (file, tcId, reason).
const REFUSED: &[(&str, u64, &str)] = &[
    (CRYPTO, 48, "several shared secrets are not supported"),
    (KEY, 2, "several shared secrets are not supported"),
    (KEY, 14, "HS384 is not supported"),
    (KEY, 15, "HS512 is not supported"),
    (SIGNATURE, 259, "an empty payload holds no claims"),
    (SIGNATURE, 264, "an empty payload holds no claims"),
    (SIGNATURE, 268, "an empty payload holds no claims"),
    (SIGNATURE, 272, "an empty payload holds no claims"),
    (SIGNATURE, 320, "an empty payload holds no claims"),
    (SIGNATURE, 325, "an empty payload holds no claims"),
    (SIGNATURE, 346, "PS384 with a key for PS256"),
    (SIGNATURE, 347, "ES512 is not supported"),
    (SIGNATURE, 350, "PS384 with a key for PS256"),
    (SIGNATURE, 351, "ES512 is not supported"),
    (SIGNATURE, 372, "a character outside base64url in the header"),
    (SIGNATURE, 373, "a character outside base64url in the payload"),
];

/// Vectors marked invalid that are accepted: (file, tcId, reason).
const ACCEPTED: &[(&str, u64, &str)] = &[
    (CRYPTO, 46, "the ROCA weakness of the issuer's key is not checked"),
    (KEY, 7, "ROCA, as above"),
    (SIGNATURE, 367, "the vector lacks the padding that it describes: it is a valid token"),
    (SIGNATURE, 370, "the same token again"),
];

const CRYPTO: &str = "json_web_crypto_test.json";
const KEY: &str = "json_web_key_test.json";
const SIGNATURE: &str = "json_web_signature_test.json";

/// Reads the vectors of `file` from `$SHAPEGATE_CORPORA`; `None` if the variable is not set. If it is set, the file
/// must exist.
fn corpus(file: &str) -> Option<Value> {
    let Some(root) = std::env::var_os("SHAPEGATE_CORPORA").filter(|root| !root.is_empty()) else {
        tell(&format!("SKIPPED: {file} was not checked, because SHAPEGATE_CORPORA is not set (CONTRIBUTING.md)"));
        return None;
    };
    let path = PathBuf::from(root).join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("SHAPEGATE_CORPORA is set, but {} cannot be read: {error}", path.display()));
    Some(serde_json::from_str(&text).unwrap())
}

/// Writes a line directly to standard error, because the test harness hides the output of tests that pass.
fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").unwrap();
}

/// Whether the signature of a JWS is accepted with the keys of a JWK or a JWK Set.
fn accepts(keys: &Value, jws: &str) -> bool {
    let listed = keys.get("keys").cloned().unwrap_or_else(|| json!([keys]));
    let Ok(token) = BearerToken::new(jws) else { return false };
    let Ok(jws) = Jws::parse(token.as_str()) else {
        return false;
    };
    if jws.unverified_claims() == Err(InvalidReason::Encoding) {
        return false;
    }
    if listed.as_array().unwrap().iter().all(|jwk| jwk["kty"] == "oct") {
        return accepts_shared(&listed, &jws);
    }
    let Ok(parsed) = KeySet::parse(json!({ "keys": listed }).to_string().as_bytes(), &Algorithm::ALL) else {
        return false;
    };
    let key = KeySet::find(&[&parsed.set], jws.header.kid.as_deref(), jws.header.algorithm);
    key.is_ok_and(|key| key.verify(jws.message, jws.signature).is_ok())
}

/// Like [`accepts`], for an issuer with one shared secret.
fn accepts_shared(keys: &Value, jws: &Jws<'_>) -> bool {
    let [jwk] = keys.as_array().unwrap().as_slice() else {
        return false;
    };
    let purpose = jwk.get("use").is_none_or(|usage| usage == "sig") && jwk.get("alg").is_none_or(|alg| alg == "HS256");
    let secret = URL_SAFE_NO_PAD.decode(jwk["k"].as_str().unwrap()).unwrap();
    let strong = secret.len() >= 32;
    let key = Key::for_vectors(&secret);
    purpose && strong && jws.header.algorithm == Algorithm::Hs256 && key.verify(jws.message, jws.signature).is_ok()
}

fn check_wycheproof(file: &str) {
    let Some(corpus) = corpus(&format!("wycheproof/{file}")) else {
        return;
    };
    let (mut count, mut wrong) = (0, Vec::new());
    for group in corpus["testGroups"].as_array().unwrap() {
        let keys = group.get("public").unwrap_or(&group["private"]);
        for test in group["tests"].as_array().unwrap() {
            count += 1;
            let id = test["tcId"].as_u64().unwrap();
            let listed =
                |list: &[(&str, u64, &str)]| list.iter().any(|(name, listed, _)| (*name, *listed) == (file, id));
            // Encrypted tokens and JSON serializations are rejected, valid or not (docs/security.md, T8).
            let compact = test.get("jws").and_then(Value::as_str);
            let text = compact.map_or_else(|| test.to_string(), str::to_owned);
            let valid = test["result"] == "valid" && compact.is_some();
            let expected = (valid && !listed(REFUSED)) || listed(ACCEPTED);
            if accepts(keys, test.get("jwe").and_then(Value::as_str).unwrap_or(&text)) != expected {
                wrong.push(format!("{id} {} {} {}", group["comment"], test["comment"], test["result"]));
            }
        }
    }
    assert_eq!(count, corpus["numberOfTests"].as_u64().unwrap());
    assert!(wrong.is_empty(), "{file}: {wrong:#?}");
}

#[test]
fn t1_t2_t3_t8_wycheproof_json_web_signature() {
    check_wycheproof(SIGNATURE);
}

#[test]
fn j1_j2_t2_wycheproof_json_web_key() {
    check_wycheproof(KEY);
}

#[test]
fn t1_t3_t8_wycheproof_json_web_crypto() {
    check_wycheproof(CRYPTO);
}

#[test]
fn jose_cookbook_signatures_are_accepted() {
    for path in ["jws/4_1.rsa_v15_signature.json", "jws/4_2.rsa-pss_signature.json", "curve25519/jws.json"] {
        let Some(example) = corpus(&format!("jose-cookbook/{path}")) else {
            return;
        };
        let mut key = example["input"]["key"].clone();
        key.as_object_mut()
            .unwrap()
            .retain(|name, _| ["crv", "e", "kid", "kty", "n", "use", "x"].contains(&name.as_str()));
        key["alg"] = example["input"]["alg"].clone();
        let token = example["output"]["compact"].as_str().unwrap();
        assert!(accepts(&key, token), "{path}");
        assert!(!accepts(&key, &token.replacen('.', ".A", 1)), "{path}");
    }
}
