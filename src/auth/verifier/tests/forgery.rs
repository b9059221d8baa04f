//! Rejects tokens that are forged, ambiguous or of another kind.

use super::*;
use crate::auth::SharedSecret;
use crate::secret::Secret;

#[tokio::test]
async fn t1_an_unsigned_token_is_rejected_under_every_spelling_of_none() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    for alg in ["none", "None", "NONE", "nOnE", "", "eddsa"] {
        let token = key.sign_text(&json!({ "alg": alg, "kid": "k" }).to_string(), claims().to_string().as_bytes());
        assert_eq!(setup.invalid(&bearer(&token)).await, InvalidReason::Algorithm, "{alg}");
        let unsigned = &token[..=token.rfind('.').unwrap()];
        assert_eq!(setup.invalid(&bearer(unsigned)).await, InvalidReason::Structure, "{alg}");
    }
}

/// The secrets of an issuer that has every family of algorithms.
const SECRETS: [(Algorithm, &str); 4] = [
    (Algorithm::Hs256, SECRET),
    (Algorithm::Hs256, "the next secret of HS256, while it is replaced"),
    (Algorithm::Hs384, "the secret of HS384, which has 48 bytes or more..."),
    (Algorithm::Hs512, "the secret of HS512, which has sixty-four bytes or more, as its hash has"),
];

fn every_family(key: &TestKey) -> IssuerSettings {
    let secret = |(algorithm, secret)| SharedSecret { algorithm, secret: Secret::new(secret) };
    let keys = KeySource { shared: SECRETS.map(secret).to_vec(), ..fixed(&[key]) };
    let algorithms = vec![key.algorithm, Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
    IssuerSettings { algorithms, ..issuer(keys) }
}

#[tokio::test]
async fn t2_the_alg_of_a_token_picks_the_family_of_its_key() {
    let key = TestKey::es256("k");
    let setup = setup(vec![every_family(&key)]);
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
    let hmac = |algorithm, secret: &[u8]| TestKey { algorithm, ..TestKey::hmac(secret) };
    for (algorithm, secret) in SECRETS {
        // A `kid` does not matter, not even that of the public key.
        for kid in [None, Some("k"), Some("other")] {
            let token = hmac(algorithm, secret.as_bytes()).named(kid).sign(&claims());
            assert_eq!(setup.verify(&token).await, Ok(Check::New), "{algorithm}");
        }
        for other in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
            let forged = hmac(other, secret.as_bytes()).named(Some("forged")).sign(&claims());
            if other != algorithm {
                assert_eq!(setup.invalid(&forged).await, InvalidReason::Signature, "{secret} as {other}");
            }
        }
    }
    assert_eq!(setup.invalid(&TestKey::es256("k").sign(&claims())).await, InvalidReason::Signature);
    let listed = jwks(&[&key]);
    let jwk = key.jwk();
    let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
    for secret in [x, y, listed.as_str(), &jwk.to_string()] {
        for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
            let forged = hmac(algorithm, secret.as_bytes()).named(Some("k")).sign(&claims());
            assert_eq!(setup.invalid(&forged).await, InvalidReason::Signature);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t4_a_replaced_secret_is_accepted_until_it_is_removed() {
    let key = TestKey::es256("k");
    let both = setup(vec![every_family(&key)]);
    let [old, new] = [SECRETS[0], SECRETS[1]].map(|(_, secret)| TestKey::hmac(secret.as_bytes()).sign(&claims()));
    for token in [&old, &new] {
        assert_eq!(both.verify(token).await, Ok(Check::New));
    }
    let mut settings = every_family(&key);
    settings.keys.shared.remove(0);
    let after = both.verifier.successor(vec![settings], BUDGET).unwrap();
    assert_eq!(after.verify(&old).await.unwrap_err(), InvalidReason::Signature.into());
    assert!(after.verify(&new).await.is_ok());
    let mut short = every_family(&key);
    short.keys.shared[3].secret = Secret::new(SECRET);
    let error = try_new(vec![short]).err().unwrap();
    assert_eq!(error, VerifierError::Issuer { issuer: ISSUER.to_owned(), reason: IssuerError::WeakSecret });
}

#[tokio::test]
async fn t2_a_public_key_in_any_form_is_not_used_as_an_hmac_secret() {
    for key in [TestKey::rsa("k", Algorithm::Rs256), TestKey::es256("k"), TestKey::ed25519("k")] {
        let setup = setup(vec![issuer(fixed(&[&key]))]);
        let jwk = key.jwk();
        let members = ["n", "x", "y", "e"].into_iter().filter_map(|name| jwk[name].as_str());
        let mut secrets: Vec<Vec<u8>> = members.clone().map(|text| text.as_bytes().to_vec()).collect();
        secrets.extend(members.map(|text| URL_SAFE_NO_PAD.decode(text).unwrap()));
        secrets.push(jwk.to_string().into_bytes());
        secrets.push(jwks(&[&key]).into_bytes());
        secrets.push(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", jwk["n"]).into_bytes());
        for newline in ["", "\n"] {
            for secret in &secrets {
                let secret = [secret, newline.as_bytes()].concat();
                for kid in [Some("k"), None] {
                    let forged = TestKey::hmac(&secret).named(kid).sign(&claims());
                    assert_eq!(setup.invalid(&forged).await, InvalidReason::Algorithm);
                }
            }
        }
    }
}

#[tokio::test]
async fn t2_a_key_verifies_its_own_algorithm_only() {
    let (rs, ps) = (TestKey::rsa("k", Algorithm::Rs256), TestKey::rsa("k", Algorithm::Ps256));
    let setup = setup(vec![issuer(fixed(&[&rs]))]);
    assert_eq!(setup.verify(&rs.sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.invalid(&ps.sign(&claims())).await, InvalidReason::AlgorithmMismatch);
    let without_kid = ps.named(None);
    assert_eq!(setup.invalid(&without_kid.sign(&claims())).await, InvalidReason::UnknownKey);
}

#[tokio::test]
async fn t3_signatures_of_the_wrong_form_are_rejected() {
    let key = TestKey::es256("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let token = key.sign(&claims());
    let (message, _) = token.as_str().rsplit_once('.').unwrap();
    // n of P-256 (FIPS 186-5)
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&order[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let der = [&[0x30, 0x44, 0x02, 0x20][..], &[1; 32], &[0x02, 0x20], &[1; 32]].concat();
    let forged = [vec![0; 64], [order.clone(), order].concat(), der, vec![1; 63], vec![1; 65], vec![1; 96], vec![1]];
    for signature in forged {
        let token = bearer(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)));
        assert_eq!(setup.invalid(&token).await, InvalidReason::Signature);
    }
    assert_eq!(setup.invalid(&TestKey::es256("k").sign(&claims())).await, InvalidReason::Signature);
}

#[tokio::test]
async fn t5_keys_in_the_header_are_neither_used_nor_fetched() {
    let (key, own) = (TestKey::ed25519("k"), TestKey::ed25519("k"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    for member in [json!({ "jwk": own.jwk() }), json!({ "jku": url }), json!({ "x5u": url }), json!({ "x5c": ["AA"] })]
    {
        let mut header = json!({ "alg": "EdDSA", "kid": "k" });
        header.as_object_mut().unwrap().append(&mut member.as_object().unwrap().clone());
        let forged = own.sign_text(&header.to_string(), claims().to_string().as_bytes());
        assert_eq!(setup.invalid(&bearer(&forged)).await, InvalidReason::Signature, "{header}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(setup.fetch.calls(), 0);
}

#[tokio::test]
async fn t6_a_kid_is_only_compared() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let long = "k".repeat(65_536);
    for kid in ["", "K", "k ", "../../k", "k' OR '1'='1", "k\0", "k\r\nx: y", "/dev/null", long.as_str()] {
        let forged = key.named(Some(kid));
        assert_eq!(setup.invalid(&forged.sign(&claims())).await, InvalidReason::UnknownKey, "{kid:?}");
    }
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
}

#[tokio::test]
async fn t6_a_token_without_kid_needs_exactly_one_fitting_key() {
    let (key, second, other) = (TestKey::ed25519("a"), TestKey::ed25519("b"), TestKey::es256("c"));
    let nameless = key.named(None);
    let one = setup(vec![issuer(fixed(&[&key, &other]))]);
    assert_eq!(one.verify(&nameless.sign(&claims())).await, Ok(Check::New));
    let two = setup(vec![issuer(fixed(&[&key, &second]))]);
    assert_eq!(two.invalid(&nameless.sign(&claims())).await, InvalidReason::AmbiguousKey);
    let none = setup(vec![issuer(fixed(&[&other]))]);
    assert_eq!(none.invalid(&nameless.sign(&claims())).await, InvalidReason::UnknownKey);
}

#[tokio::test]
async fn t7_t8_signed_tokens_of_another_kind_are_rejected() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let payload = claims().to_string();
    for (member, reason) in [
        (r#""crit":["exp"]"#, InvalidReason::Critical),
        (r#""b64":false,"crit":["b64"]"#, InvalidReason::UnencodedPayload),
        (r#""zip":"DEF""#, InvalidReason::Compressed),
        (r#""enc":"A128GCM""#, InvalidReason::Encrypted),
        (r#""cty":"JWT""#, InvalidReason::Nested),
    ] {
        let token = key.sign_text(&format!(r#"{{"alg":"EdDSA","kid":"k",{member}}}"#), payload.as_bytes());
        assert_eq!(setup.invalid(&bearer(&token)).await, reason, "{member}");
    }
    let token = key.sign(&claims());
    let parts: Vec<_> = token.as_str().split('.').collect();
    for other in [
        format!("{}.{}", parts[0], parts[1]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}.AA", token.as_str()),
        format!("{}.AA.AA", token.as_str()),
    ] {
        assert_eq!(setup.invalid(&bearer(&other)).await, InvalidReason::Structure, "{other}");
    }
}

#[tokio::test]
async fn t9_only_the_configured_types_are_accepted() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let signed = |typ: &str| {
        let header = json!({ "alg": "EdDSA", "kid": "k", "typ": typ }).to_string();
        bearer(&key.sign_text(&header, claims().to_string().as_bytes()))
    };
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"] {
        assert_eq!(setup.verify(&signed(typ)).await, Ok(Check::New), "{typ}");
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "", "application/", "JOSE", "application/application/jwt"] {
        assert_eq!(setup.invalid(&signed(typ)).await, InvalidReason::Type, "{typ}");
    }
    let strict = self::setup(vec![IssuerSettings { types: vec!["at+jwt".to_owned()], ..issuer(fixed(&[&key])) }]);
    assert_eq!(strict.invalid(&signed("JWT")).await, InvalidReason::Type);
}

#[tokio::test]
async fn t10_t11_signed_tokens_with_ambiguous_payloads_are_rejected() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let good = claims().to_string();
    let open = &good[..good.len() - 1];
    let mut payloads = vec![
        format!(r#"{open},"org":"a","org":"b"}}"#).into_bytes(),
        format!(r#"{open},"org":"a","\u006frg":"b"}}"#).into_bytes(),
        format!(r#"{open},"a":{{"org":1,"org":2}}}}"#).into_bytes(),
        format!(r#"{open},"sub":"user-1"}}"#).into_bytes(),
        format!("[{good}]").into_bytes(),
        format!("{good}{good}").into_bytes(),
        format!("{good},").into_bytes(),
        format!("\u{feff}{good}").into_bytes(),
        format!(r#"{open},"a":"\ud800"}}"#).into_bytes(),
        format!(r#"{open},"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200)).into_bytes(),
        json!([NOW.as_secs() + 100, 0, "user-1", ISSUER, AUDIENCE]).to_string().into_bytes(),
        b"\"text\"".to_vec(),
        b"1".to_vec(),
    ];
    payloads.push([open.as_bytes(), b",\"a\":\"\xff\"}"].concat());
    for payload in payloads {
        let token = bearer(&key.sign_text(r#"{"alg":"EdDSA","kid":"k"}"#, &payload));
        assert_eq!(setup.invalid(&token).await, InvalidReason::Payload, "{}", String::from_utf8_lossy(&payload));
    }
    let token = bearer(&key.sign_text(r#"{"alg":"EdDSA","kid":"k","alg":"EdDSA"}"#, good.as_bytes()));
    assert_eq!(setup.invalid(&token).await, InvalidReason::Header);
}
