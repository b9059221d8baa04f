use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::auth::testing::{TestKey, jwks};

fn parse(keys: &Value) -> Result<ParsedKeys, KeySetError> {
    let public: Vec<_> = Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()).collect();
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &public)
}

/// Returns a good key's JWK with one member changed; `null` removes the member.
fn changed(key: &TestKey, name: &str, value: Value) -> Value {
    let mut jwk = key.jwk();
    match value {
        Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
        value => jwk[name] = value,
    }
    jwk
}

/// Asserts that a bad key is left out with its reason while a good key is kept (docs/security.md, J3).
fn assert_rejected(jwk: &Value, reason: KeyRejection) {
    let good = TestKey::ed25519("good").jwk();
    let parsed = parse(&json!([jwk, good])).unwrap();
    let reasons: Vec<_> = parsed.rejected.iter().map(|rejected| rejected.reason).collect();
    assert_eq!((parsed.set.len(), reasons), (1, vec![reason]), "{jwk}");
}

fn encode(bytes: &[u8]) -> Value {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

#[test]
fn good_keys_of_every_kind_are_kept() {
    let keys = [
        TestKey::ed25519("ed"),
        TestKey::es256("p256"),
        TestKey::es384("p384"),
        TestKey::rsa("rs", Algorithm::Rs256),
        TestKey::rsa("ps", Algorithm::Ps512),
    ];
    let parsed = parse(&json!(keys.each_ref().map(TestKey::jwk))).unwrap();
    assert_eq!((parsed.set.len(), parsed.rejected), (5, vec![]));
    for key in &keys {
        assert!(KeySet::find(&[&parsed.set], key.kid.as_deref(), key.algorithm).is_ok(), "{}", key.algorithm);
    }
}

#[test]
fn j1_different_keys_with_one_kid_and_algorithm_are_both_rejected() {
    let (a, b, c) = (TestKey::ed25519("twice"), TestKey::ed25519("twice"), TestKey::ed25519("once"));
    let parsed = parse(&json!([a.jwk(), b.jwk(), c.jwk()])).unwrap();
    assert_eq!(parsed.set.len(), 1);
    let reported: Vec<_> = parsed.rejected.iter().map(|it| (it.index, it.kid.as_deref(), it.reason)).collect();
    let duplicate = KeyRejection::DuplicateKid;
    assert_eq!(reported, [(0, Some("twice"), duplicate), (1, Some("twice"), duplicate)]);
    assert_eq!(KeySet::find(&[&parsed.set], Some("twice"), Algorithm::EdDsa).unwrap_err(), NoKey::Unknown);
}

#[test]
fn j1_keys_with_one_kid_are_told_apart_by_algorithm() {
    let rsa = TestKey::rsa("k", Algorithm::Rs256);
    let pss = TestKey::rsa("k", Algorithm::Ps256);
    let (ec, other_ec) = (TestKey::es256("k"), TestKey::es256("k"));
    let parsed = parse(&json!([rsa.jwk(), pss.jwk(), ec.jwk()])).unwrap();
    assert_eq!((parsed.set.len(), parsed.rejected), (3, vec![]));
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256] {
        assert_eq!(KeySet::find(&[&parsed.set], Some("k"), algorithm).unwrap().algorithm(), algorithm);
    }
    assert_eq!(KeySet::find(&[&parsed.set], Some("k"), Algorithm::EdDsa).unwrap_err(), NoKey::Mismatch);
    // A second key for one of the algorithms spoils only that one.
    let parsed = parse(&json!([rsa.jwk(), ec.jwk(), other_ec.jwk()])).unwrap();
    assert_eq!((parsed.set.len(), parsed.rejected.len()), (1, 2));
    assert!(KeySet::find(&[&parsed.set], Some("k"), Algorithm::Rs256).is_ok());
    assert_eq!(KeySet::find(&[&parsed.set], Some("k"), Algorithm::Es256).unwrap_err(), NoKey::Mismatch);
}

#[test]
fn j1_the_same_key_twice_is_one_key() {
    for key in [TestKey::es256("k"), TestKey::rsa("k", Algorithm::Rs256), TestKey::ed25519("k").named(None)] {
        let again = changed(&key, "x5t", json!("AA"));
        let parsed = parse(&json!([key.jwk(), again])).unwrap();
        assert_eq!((parsed.set.len(), parsed.rejected), (1, vec![]), "{}", key.algorithm);
        assert!(KeySet::find(&[&parsed.set], key.kid.as_deref(), key.algorithm).is_ok());
    }
}

#[test]
fn j2_a_number_is_the_same_with_and_without_leading_zeros() {
    let decode = |jwk: &Value, name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    for (key, names) in [
        (TestKey::es256("k"), ["x", "y"]),
        (TestKey::es384("k"), ["x", "y"]),
        (TestKey::rsa("k", Algorithm::Rs256), ["n", "e"]),
    ] {
        let mut padded = key.jwk();
        for name in names {
            padded[name] = encode(&[vec![0, 0], decode(&key.jwk(), name)].concat());
        }
        let parsed = parse(&json!([padded, key.jwk()])).unwrap();
        assert_eq!((parsed.set.len(), parsed.rejected), (1, vec![]), "{}", key.algorithm);
        assert_eq!(parsed.set.to_json(), json!({ "keys": [key.jwk()] }));
    }
    // One in 256 coordinates begins with a zero octet, which some issuers leave out.
    let short = std::iter::repeat_with(|| TestKey::es256("k")).find(|key| decode(&key.jwk(), "x")[0] == 0).unwrap();
    let cut = changed(&short, "x", encode(&decode(&short.jwk(), "x")[1..]));
    assert_eq!(parse(&json!([cut])).unwrap().set.to_json(), json!({ "keys": [short.jwk()] }));
}

#[test]
fn a_null_member_is_absent() {
    let key = TestKey::es256("k");
    let mut jwk = key.jwk();
    for name in ["use", "alg", "key_ops", "d", "x5c"] {
        jwk[name] = Value::Null;
    }
    let parsed = parse(&json!([jwk])).unwrap();
    assert!(KeySet::find(&[&parsed.set], Some("k"), Algorithm::Es256).is_ok());
    jwk["kid"] = Value::Null;
    let parsed = parse(&json!([jwk])).unwrap();
    assert!(KeySet::find(&[&parsed.set], None, Algorithm::Es256).is_ok());
    jwk["x"] = Value::Null;
    assert_rejected(&jwk, KeyRejection::Malformed);
}

#[test]
fn j1_keys_without_kid_are_not_duplicates() {
    let keys = [TestKey::ed25519("").named(None).jwk(), TestKey::es256("").named(None).jwk()];
    assert_eq!(parse(&json!(keys)).unwrap().set.len(), 2);
}

#[test]
fn j2_j3_keys_for_another_purpose_are_rejected() {
    let key = TestKey::es256("k");
    for usage in [json!("enc"), json!(""), json!("SIG"), json!(1), json!(["sig"])] {
        assert_rejected(&changed(&key, "use", usage), KeyRejection::Use);
    }
    for operations in [json!(["encrypt"]), json!(["sign"]), json!([]), json!("verify"), json!(1)] {
        assert_rejected(&changed(&key, "key_ops", operations), KeyRejection::KeyOperations);
    }
    assert_rejected(&changed(&key, "d", json!("AA")), KeyRejection::Private);
    assert_rejected(&changed(&key, "kid", json!(7)), KeyRejection::KeyId);
    assert!(parse(&json!([changed(&key, "key_ops", json!(["verify"]))])).is_ok());
    assert!(parse(&json!([changed(&key, "use", json!(null))])).is_ok());
}

#[test]
fn j2_j3_a_key_is_for_the_algorithm_it_names_and_the_curve_it_has() {
    let key = TestKey::es256("k");
    for alg in [json!("ES384"), json!("EdDSA"), json!("RS256"), json!("HS256"), json!("none"), json!("x"), json!(1)] {
        assert_rejected(&changed(&key, "alg", alg), KeyRejection::Algorithm);
    }
    for curve in [json!("P-521"), json!("secp256k1"), json!("Ed25519"), json!("p-256"), json!(1), json!(null)] {
        assert_rejected(&changed(&key, "crv", curve), KeyRejection::Curve);
    }
    let as_es384 = TestKey { algorithm: Algorithm::Es384, ..key };
    assert_rejected(&changed(&as_es384, "crv", json!("P-384")), KeyRejection::Point);
    for curve in ["X25519", "Ed448", "X448"] {
        assert_rejected(&changed(&TestKey::ed25519("k"), "crv", json!(curve)), KeyRejection::Curve);
    }
}

#[test]
fn t2_j2_a_shared_secret_in_a_published_set_is_rejected() {
    let secret = json!({ "kty": "oct", "k": encode(&[7; 32]), "alg": "HS256", "kid": "s" });
    assert_rejected(&secret, KeyRejection::KeyType);
    for kty in [json!("rsa"), json!("AKP"), json!(1), json!(null)] {
        assert_rejected(&changed(&TestKey::es256("k"), "kty", kty), KeyRejection::KeyType);
    }
    let everything = KeySet::parse(json!({ "keys": [secret] }).to_string().as_bytes(), &Algorithm::ALL);
    assert_eq!(reasons_of(everything.unwrap_err()), [KeyRejection::KeyType]);
}

#[test]
fn j2_rsa_keys_have_2048_to_8192_bits_and_a_small_odd_exponent() {
    let key = TestKey::rsa("k", Algorithm::Rs256);
    let n = URL_SAFE_NO_PAD.decode(key.jwk()["n"].as_str().unwrap()).unwrap();
    let even = [&n[..n.len() - 1], &[n[n.len() - 1] & 0xfe]].concat();
    let odd = |length: usize| [vec![0x80], vec![0x55; length - 2], vec![1]].concat();
    let short = [&[0x7f], &n[1..]].concat(); // 2,047 bits
    for n in [even, short, odd(128), odd(255), odd(1025), vec![1]] {
        assert_rejected(&changed(&key, "n", encode(&n)), KeyRejection::Modulus);
    }
    let huge = [vec![1], vec![0; 3], vec![1]].concat();
    for e in [vec![1], vec![2], vec![0], vec![1, 0, 0], vec![0, 1], huge] {
        assert_rejected(&changed(&key, "e", encode(&e)), KeyRejection::Exponent);
    }
    for (name, value) in
        [("n", json!(null)), ("e", json!(null)), ("n", json!("")), ("e", json!("A")), ("e", json!("AQAB="))]
    {
        assert_rejected(&changed(&key, name, value), KeyRejection::Malformed);
    }
    assert!(parse(&json!([changed(&key, "e", encode(&[3]))])).is_ok());
    assert!(parse(&json!([changed(&key, "n", encode(&odd(1024)))])).is_ok());
}

#[test]
fn j2_points_are_on_their_curve_and_of_the_right_length() {
    for key in [TestKey::es256("k"), TestKey::es384("k")] {
        let y = URL_SAFE_NO_PAD.decode(key.jwk()["y"].as_str().unwrap()).unwrap();
        let off_curve = [&y[..y.len() - 1], &[y[y.len() - 1] ^ 1]].concat();
        for y in
            [off_curve, y[..y.len() - 1].to_vec(), [vec![1], y.clone()].concat(), vec![0; y.len()], vec![0xff; y.len()]]
        {
            assert_rejected(&changed(&key, "y", encode(&y)), KeyRejection::Point);
        }
        assert_rejected(&changed(&key, "y", json!(null)), KeyRejection::Malformed);
    }
    for length in [0, 31, 33, 57] {
        let x = changed(&TestKey::ed25519("k"), "x", encode(&vec![9; length]));
        assert_rejected(&x, if length == 0 { KeyRejection::Malformed } else { KeyRejection::Point });
    }
}

#[test]
fn a_key_without_alg_is_for_the_only_algorithm_that_fits() {
    let (rsa, ed) = (changed(&TestKey::rsa("r", Algorithm::Rs256), "alg", json!(null)), TestKey::ed25519("e").jwk());
    let document = json!({ "keys": [rsa, ed] }).to_string();
    let parse = |algorithms: &[Algorithm]| KeySet::parse(document.as_bytes(), algorithms);
    let one = parse(&[Algorithm::Ps256, Algorithm::Es256]).unwrap();
    assert!(KeySet::find(&[&one.set], Some("r"), Algorithm::Ps256).is_ok());
    assert_eq!(KeySet::find(&[&one.set], Some("r"), Algorithm::Rs256).unwrap_err(), NoKey::Mismatch);
    assert_eq!(one.rejected[0].reason, KeyRejection::Algorithm); // this issuer does not accept EdDSA
    let several = parse(&[Algorithm::Ps256, Algorithm::Rs256, Algorithm::EdDsa]).unwrap();
    assert_eq!(several.rejected[0].reason, KeyRejection::AlgorithmAmbiguous);
    assert_eq!(several.set.len(), 1);
}

#[test]
fn j4_a_huge_set_is_rejected() {
    let keys: Vec<_> =
        (0..101).map(|number| changed(&TestKey::ed25519("k"), "kid", number.to_string().into())).collect();
    assert_eq!(parse(&json!(keys)).unwrap_err(), KeySetError::TooManyKeys);
    assert_eq!(parse(&json!(keys[..100])).unwrap().set.len(), 100);
    let padded = jwks(&[&TestKey::ed25519("k")]) + &" ".repeat(MAX_SET_BYTES);
    assert_eq!(KeySet::parse(padded.as_bytes(), &Algorithm::ALL).unwrap_err(), KeySetError::TooLarge);
    assert!(KeySet::parse(&padded.as_bytes()[..MAX_SET_BYTES], &Algorithm::ALL).is_ok());
}

#[test]
fn j5_a_document_that_is_not_a_key_set_is_an_error() {
    for text in ["", "<html></html>", "[]", "null", "{}", r#"{"keys":{}}"#, r#"{"keys":1}"#, r#"{"keys":[],"keys":[]}"#]
    {
        let result = KeySet::parse(text.as_bytes(), &Algorithm::ALL);
        assert_eq!(result.unwrap_err(), KeySetError::Malformed, "{text}");
    }
    assert_eq!(parse(&json!([])).unwrap_err().to_string(), "no usable key: the set is empty");
    assert_eq!(reasons_of(parse(&json!([1, "x", null])).unwrap_err()), [KeyRejection::Malformed; 3]);
}

fn reasons_of(error: KeySetError) -> Vec<KeyRejection> {
    let KeySetError::NoUsableKey(rejected) = error else { panic!("{error}") };
    rejected.into_iter().map(|rejected| rejected.reason).collect()
}

#[test]
fn a_set_without_a_usable_key_says_why_of_each() {
    let (encrypts, nameless) = (TestKey::es256("a"), TestKey::es256("").named(None));
    let keys = json!([changed(&encrypts, "use", json!("enc")), changed(&nameless, "alg", json!("ES512"))]);
    assert_eq!(
        parse(&keys).unwrap_err().to_string(),
        "no usable key: key 0 (\"a\"): use is not sig; key 1 without kid: no algorithm of this issuer fits the key"
    );
}

#[test]
fn another_document_is_named_with_what_to_write_instead() {
    let certificates = json!({ "a": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" });
    for (document, hint) in [
        (
            json!({ "issuer": "https://a", "jwks_uri": "https://a/keys?x=secret" }),
            "write url = \"https://a/keys\", or discover",
        ),
        (json!({ "issuer": "https://a", "jwks_uri": 7 }), "write the URL of its key set, or discover"),
        (TestKey::es256("k").jwk(), "one JSON Web Key, not a set"),
        (certificates, "X.509 certificates, not a JSON Web Key Set"),
        (json!({ "a": "b" }), "not a JSON Web Key Set"),
    ] {
        let error = KeySet::parse(document.to_string().as_bytes(), &Algorithm::ALL).unwrap_err().to_string();
        assert!(error.contains(hint) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn only_public_members_are_written() {
    let key = TestKey::es256("k");
    let mut jwk = key.jwk();
    jwk["x5c"] = json!(["AA"]);
    jwk["secret"] = json!("s");
    let parsed = parse(&json!([jwk])).unwrap();
    assert_eq!(parsed.set.to_json(), json!({ "keys": [key.jwk()] }));
    let again = parse(&parsed.set.to_json()["keys"]).unwrap();
    assert!(parsed.set.same_keys(&again.set));
}
