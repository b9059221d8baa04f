//! A successor replaces a verifier on reload.

use tokio::task::yield_now;

use super::*;
use crate::auth::testing::remote_keys;
use crate::auth::{RemoteKeys, Renewals};
use crate::shape::ShapeClaims;

const OTHER: &str = "https://other.example.com";

fn named(name: &str, keys: KeySource) -> IssuerSettings {
    IssuerSettings { issuer: name.to_owned(), ..issuer(keys) }
}

fn of(name: &str) -> Value {
    with(&json!({ "iss": name }))
}

fn after(setup: &Setup, issuers: Vec<IssuerSettings>) -> Setup {
    let verifier = Arc::new(setup.verifier.successor(issuers, BUDGET).unwrap());
    Setup { verifier, clock: Arc::clone(&setup.clock), fetch: Arc::clone(&setup.fetch) }
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_issuer_keeps_its_keys_and_verdicts() {
    let (key, file, shared) = (TestKey::ed25519("k"), TestKey::ed25519("f"), TestKey::hmac(SECRET.as_bytes()));
    let issuers = || {
        let shared = IssuerSettings { issuer: "https://shared.example.com".to_owned(), ..shared_issuer(SECRET) };
        vec![issuer(remote()), named(OTHER, fixed(&[&file])), shared]
    };
    let first = setup_with(issuers(), BUDGET, ScriptedFetch::open([Ok(jwks(&[&key])), Err(FetchError::Timeout)]));
    let tokens = [key.sign(&claims()), file.sign(&of(OTHER)), shared.sign(&of("https://shared.example.com"))];
    for token in &tokens {
        assert_eq!(first.verify(token).await, Ok(Check::New));
    }
    let second = after(&first, issuers());
    for token in &tokens {
        assert_eq!(second.verify(token).await, Ok(Check::Seen));
        let principal = first.verifier.verify(token).await.unwrap().principal;
        assert!(second.verifier.knows(&principal));
        assert_eq!(second.verifier.recheck(&principal), Ok(()));
    }
    assert_eq!(first.fetch.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn any_changed_setting_of_an_issuer_applies_to_tokens_seen_before() {
    let key = TestKey::ed25519("k");
    type Change = fn(&mut IssuerSettings);
    let changes: [(&str, Change); 8] = [
        ("audience", |issuer| issuer.audience = vec!["https://elsewhere".to_owned()]),
        ("algorithms", |issuer| issuer.algorithms = vec![Algorithm::Es256]),
        ("max_lifetime", |issuer| issuer.max_lifetime = Some(Duration::from_secs(1))),
        ("types", |issuer| issuer.types = vec!["at+jwt".to_owned()]),
        ("keys", |issuer| issuer.keys = fixed(&[&TestKey::ed25519("k")])),
        ("kind", |issuer| {
            issuer.algorithms = vec![Algorithm::Hs256];
            issuer.keys = shared(Algorithm::Hs256, SECRET);
        }),
        ("shape claims", |issuer| issuer.shape_claims = ShapeClaims::Own),
        ("name", |issuer| issuer.issuer = OTHER.to_owned()),
    ];
    for (what, change) in changes {
        let first = setup(vec![issuer(fixed(&[&key]))]);
        let token = key.sign_text(
            &json!({ "alg": "EdDSA", "kid": "k", "typ": "JWT" }).to_string(),
            claims().to_string().as_bytes(),
        );
        let token = bearer(&token);
        assert_eq!(first.verify(&token).await, Ok(Check::New), "{what}");
        let principal = first.verifier.verify(&token).await.unwrap().principal;
        let mut changed = issuer(fixed(&[&key]));
        change(&mut changed);
        let second = after(&first, vec![changed]);
        assert!(!second.verifier.knows(&principal), "{what}");
        assert!(second.verifier.recheck(&principal).is_err(), "{what}");
        assert!(matches!(second.verify(&token).await, Err(TokenError::Invalid(_))), "{what}");
        // Back to the first configuration: the token is accepted and cached again.
        let third = after(&second, vec![issuer(fixed(&[&key]))]);
        assert_eq!(third.verify(&token).await, Ok(Check::New), "{what}");
        assert_eq!(third.verify(&token).await, Ok(Check::Seen), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_issuer_keeps_only_keys_fetched_from_the_same_url() {
    let key = TestKey::ed25519("k");
    let first = setup_with(vec![issuer(remote())], BUDGET, ScriptedFetch::open([Ok(jwks(&[&key]))]));
    let token = key.sign(&claims());
    assert_eq!(first.verify(&token).await, Ok(Check::New));
    first.fetch.now_answers(Err(FetchError::Timeout));
    let keys = |change: fn(&mut RemoteKeys)| {
        let mut remote = remote_keys();
        change(&mut remote);
        vec![issuer(KeySource { remote: Some(remote), ..KeySource::default() })]
    };
    // If only settings outside the endpoint changed, the store is reused.
    let lenient = vec![IssuerSettings { leeway: Duration::from_secs(60), ..issuer(remote()) }];
    let second = after(&first, lenient);
    assert_eq!(second.verify(&token).await, Ok(Check::New));
    let patient = after(&second, keys(|remote| remote.endpoint.timeout = Duration::from_secs(1)));
    assert_eq!(patient.verify(&token).await, Ok(Check::New));
    assert_eq!(first.fetch.calls(), 1);
    let elsewhere =
        after(&patient, keys(|remote| remote.endpoint.url = "https://elsewhere.example.com/jwks".parse().unwrap()));
    assert!(matches!(elsewhere.verify(&token).await, Err(TokenError::KeysUnavailable { .. })));
    // A shorter `max_stale` also applies to keys fetched before the change.
    first.pass(60);
    let strict = after(&patient, keys(|remote| remote.max_stale = Duration::from_secs(30)));
    assert!(!strict.verifier.key_status()[0].ready);
}

#[tokio::test(start_paused = true)]
async fn renewals_follow_the_verifier_and_stop_for_removed_issuers() {
    let (ours, theirs) = (TestKey::ed25519("k"), TestKey::ed25519("o"));
    let both = || vec![issuer(remote()), named(OTHER, remote())];
    let first = setup_with(both(), BUDGET, ScriptedFetch::open([Ok(jwks(&[&ours, &theirs]))]));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut renewals = Renewals::default();
    renewals.follow(&first.verifier);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!((first.fetch.calls(), tasks() - before), (2, 2));
    let gone = Arc::downgrade(first.verifier.remotes().nth(1).unwrap());
    let second = after(&first, vec![issuer(remote())]);
    renewals.follow(&second.verifier);
    drop(first);
    while tasks() - before > 1 {
        yield_now().await;
    }
    assert!(gone.upgrade().is_none(), "the keys of a removed issuer are freed");
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(second.fetch.calls(), 3, "the remaining set is still refreshed, the removed one is not");
    let mut verifier = second.verifier;
    for _ in 0..100 {
        verifier = Arc::new(verifier.successor(both(), BUDGET).unwrap());
        renewals.follow(&verifier);
        verifier = Arc::new(verifier.successor(vec![issuer(remote())], BUDGET).unwrap());
        renewals.follow(&verifier);
    }
    while tasks() - before > 1 {
        yield_now().await;
    }
    drop(renewals);
    while tasks() > before {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_failed_successor_changes_nothing() {
    let key = TestKey::ed25519("k");
    let first = setup(vec![issuer(fixed(&[&key]))]);
    let token = key.sign(&claims());
    assert_eq!(first.verify(&token).await, Ok(Check::New));
    let twice = || vec![issuer(fixed(&[&key])), issuer(fixed(&[&key]))];
    assert!(matches!(first.verifier.successor(twice(), BUDGET), Err(VerifierError::DuplicateIssuer(_))));
    assert_eq!(first.verify(&token).await, Ok(Check::Seen));
    // A cache of another size starts empty; tokens are verified again.
    let other = first.verifier.successor(vec![issuer(fixed(&[&key]))], BUDGET / 2).unwrap();
    assert_eq!(other.verify(&token).await.map(|verified| verified.check), Ok(Check::New));
}
