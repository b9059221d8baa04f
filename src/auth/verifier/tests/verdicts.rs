//! Cached verdicts.

use super::*;

#[tokio::test]
async fn t12_t13_a_token_expires_at_exp_plus_leeway_whether_cached_or_not() {
    let key = TestKey::ed25519("k");
    for verdict_bytes in [0, BUDGET] {
        let issuers = vec![IssuerSettings { leeway: Duration::from_secs(5), ..issuer(fixed(&[&key])) }];
        let setup = setup_with(issuers, verdict_bytes, ScriptedFetch::open([]));
        let token = key.sign(&claims());
        assert!(setup.verify(&token).await.is_ok());
        setup.pass(104);
        assert!(setup.verify(&token).await.is_ok());
        setup.pass(1);
        assert_eq!(setup.verify(&token).await, Err(TokenError::Expired));
        setup.pass(1);
        assert_eq!(setup.verify(&token).await, Err(TokenError::Expired));
    }
}

#[tokio::test]
async fn t18_a_verdict_applies_to_exactly_one_token() {
    let key = TestKey::es256("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let token = key.sign(&claims());
    assert_eq!(setup.verify(&token).await, Ok(Check::New));
    let (message, _) = token.as_str().rsplit_once('.').unwrap();
    let forged = bearer(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(testing::random_bytes(64))));
    assert_eq!(setup.invalid(&forged).await, InvalidReason::Signature);
    assert_eq!(setup.verify(&token).await, Ok(Check::Seen));
}

#[tokio::test]
async fn t18_the_cache_is_bounded_and_holds_no_failures() {
    let key = TestKey::ed25519("k");
    let setup = setup(vec![issuer(fixed(&[&key]))]);
    let stranger = TestKey::ed25519("k");
    for number in 0..500 {
        let claims = with(&json!({ "jti": number }));
        assert_eq!(setup.invalid(&stranger.sign(&claims)).await, InvalidReason::Signature);
    }
    assert_eq!(setup.verifier.verdicts.len(), 0);
    for number in 0..500 {
        assert!(setup.verify(&key.sign(&with(&json!({ "jti": number })))).await.is_ok());
    }
    assert!((50..=200).contains(&setup.verifier.verdicts.len()), "{}", setup.verifier.verdicts.len());
}

#[tokio::test]
async fn t18_results_are_the_same_with_and_without_a_cache() {
    let (key, stranger) = (TestKey::ed25519("k"), TestKey::ed25519("k"));
    let (on, off) =
        (setup(vec![issuer(fixed(&[&key]))]), setup_with(vec![issuer(fixed(&[&key]))], 0, ScriptedFetch::open([])));
    let mut tokens = vec![key.sign(&claims()), stranger.sign(&claims())];
    for changes in [json!({ "exp": NOW.as_secs() + 3 }), json!({ "aud": "x" }), json!({ "nbf": NOW.as_secs() + 5 })] {
        tokens.push(key.sign(&with(&changes)));
    }
    for _second in 0..10 {
        for token in &tokens {
            let (seen, new) = (on.verifier.verify(token).await, off.verifier.verify(token).await);
            assert_eq!(seen.as_ref().err(), new.as_ref().err());
            assert_eq!(seen.ok().map(|it| it.principal.expires_at()), new.ok().map(|it| it.principal.expires_at()));
        }
        on.pass(1);
        off.pass(1);
    }
    assert_eq!(off.verifier.verdicts.len(), 0);
}
