//! Verifies tokens while keys are fetched, replaced and removed. Tokio's clock advances only when every task waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::auth::RemoteKeys;
use crate::auth::Renewals;
use crate::auth::keys::Document;
use crate::auth::testing::remote_keys;

fn remote_setup(fetch: Arc<ScriptedFetch>) -> Setup {
    setup_with(vec![issuer(remote())], 200 * BUDGET, fetch)
}

/// Advances both clocks.
async fn pass(setup: &Setup, seconds: u64) {
    setup.pass(seconds);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// A fetcher that panics.
struct PanickingFetch;

#[async_trait::async_trait]
impl JwksFetch for PanickingFetch {
    async fn fetch(&self, _: &RemoteKeys) -> Result<Document, FetchError> {
        panic!("on purpose")
    }
}

fn renew(setup: &Setup) -> Renewals {
    let mut renewals = Renewals::default();
    renewals.follow(&setup.verifier);
    renewals
}

/// Returns once every other task waits for something.
async fn others_ran() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_token_fetches_the_keys_and_the_next_does_not() {
    let key = TestKey::ed25519("k");
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&key]))]));
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.verify(&key.sign(&with(&json!({ "jti": 1 })))).await, Ok(Check::New));
    assert_eq!(setup.fetch.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn j11_t6_ten_thousand_requests_share_one_fetch() {
    let (old, new, forged) = (TestKey::ed25519("old"), TestKey::ed25519("new"), TestKey::ed25519("forged"));
    let fetch = ScriptedFetch::closed([Ok(jwks(&[&old])), Ok(jwks(&[&old, &new]))]);
    let setup = remote_setup(fetch);
    let stop = renew(&setup);
    setup.fetch.let_through(1);
    others_ran().await;
    assert_eq!(setup.fetch.calls(), 1);
    let (accepted, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut requests = JoinSet::new();
    for number in 0..10_000 {
        let key = if number % 2 == 0 { &new } else { &forged };
        let token = if number < 100 { key.sign(&with(&json!({ "jti": number }))) } else { key.sign(&claims()) };
        let (verifier, accepted, refused) = (setup.verifier.clone(), accepted.clone(), refused.clone());
        requests.spawn(async move {
            match verifier.verify(&token).await {
                Ok(_) => accepted.fetch_add(1, Ordering::SeqCst),
                Err(TokenError::Invalid(InvalidReason::UnknownKey)) => refused.fetch_add(1, Ordering::SeqCst),
                Err(other) => panic!("{other}"),
            }
        });
    }
    while setup.fetch.calls() < 2 {
        tokio::task::yield_now().await;
    }
    others_ran().await;
    setup.fetch.let_through(1_000_000);
    requests.join_all().await;
    assert_eq!((accepted.load(Ordering::SeqCst), refused.load(Ordering::SeqCst)), (5_000, 5_000));
    assert_eq!(setup.fetch.calls(), 2);
    drop(stop);
}

#[tokio::test(start_paused = true)]
async fn t6_an_unknown_kid_causes_one_fetch_per_cooldown_even_if_fetches_fail() {
    let (key, forged) = (TestKey::ed25519("k"), TestKey::ed25519("x"));
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&key]))]));
    let token = forged.sign(&claims());
    for _ in 0..10 {
        assert_eq!(setup.invalid(&token).await, InvalidReason::UnknownKey);
    }
    assert_eq!(setup.fetch.calls(), 1);
    pass(&setup, 29).await;
    assert_eq!(setup.invalid(&token).await, InvalidReason::UnknownKey);
    assert_eq!(setup.fetch.calls(), 1);
    pass(&setup, 1).await;
    setup.fetch.now_answers(Err(FetchError::Status(500)));
    for _ in 0..10 {
        let result = setup.verify(&token).await;
        assert!(matches!(result, Err(TokenError::KeysUnavailable { .. })), "{result:?}");
    }
    assert_eq!(setup.fetch.calls(), 2);
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn a_key_published_right_after_a_scheduled_renewal_is_found_at_once() {
    let (old, new) = (TestKey::ed25519("old"), TestKey::ed25519("new"));
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&old])), Ok(jwks(&[&old, &new]))]));
    let _stop = renew(&setup);
    others_ran().await;
    assert_eq!(setup.fetch.calls(), 1);
    assert_eq!(setup.verify(&new.sign(&claims())).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn j7_a_known_kid_never_waits_for_a_fetch() {
    let (key, forged) = (TestKey::ed25519("k"), TestKey::ed25519("x"));
    let setup = remote_setup(ScriptedFetch::closed([Ok(jwks(&[&key]))]));
    setup.fetch.let_through(1);
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
    pass(&setup, 30).await;
    let verifier = setup.verifier.clone();
    let token = forged.sign(&claims());
    let waiting = tokio::spawn(async move { verifier.verify(&token).await.map(|verified| verified.check) });
    others_ran().await;
    assert_eq!(setup.fetch.calls(), 2); // the second fetch hangs
    let fresh = key.sign(&with(&json!({ "jti": 1 })));
    assert_eq!(setup.verify(&fresh).await, Ok(Check::New));
    assert!(!waiting.is_finished());
    setup.fetch.let_through(1);
    assert_eq!(waiting.await.unwrap(), Err(InvalidReason::UnknownKey.into()));
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_request_does_not_cancel_the_fetch_it_started() {
    let key = TestKey::ed25519("k");
    let setup = remote_setup(ScriptedFetch::closed([Ok(jwks(&[&key]))]));
    let (verifier, token) = (setup.verifier.clone(), key.sign(&claims()));
    let leaving = tokio::spawn(async move { verifier.verify(&token).await.map(|verified| verified.check) });
    others_ran().await;
    leaving.abort();
    setup.fetch.let_through(1);
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.fetch.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn t18_t19_j8_removing_a_key_ends_the_verdicts_it_verified() {
    let (stays, leaves) = (TestKey::ed25519("stays"), TestKey::ed25519("leaves"));
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&stays, &leaves])), Ok(jwks(&[&stays]))]));
    let _stop = renew(&setup);
    others_ran().await;
    let long = with(&json!({ "exp": NOW.as_secs() + 10_000 }));
    let (kept, gone) = (stays.sign(&long), leaves.sign(&long));
    assert_eq!(setup.verify(&kept).await, Ok(Check::New));
    let principal = setup.verifier.verify(&gone).await.unwrap().principal;
    assert_eq!(setup.verify(&gone).await, Ok(Check::Seen));
    assert_eq!(setup.verifier.recheck(&principal), Ok(()));
    pass(&setup, 601).await; // the refresh interval and 1 s
    assert_eq!(setup.verifier.recheck(&principal), Err(InvalidReason::UnknownKey.into()));
    assert_eq!(setup.invalid(&gone).await, InvalidReason::UnknownKey);
    assert_eq!(setup.verify(&kept).await, Ok(Check::Seen));
}

#[tokio::test(start_paused = true)]
async fn t18_another_key_under_the_same_kid_ends_the_verdicts_of_the_first() {
    let (first, second) = (TestKey::ed25519("k"), TestKey::ed25519("k"));
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&first])), Ok(jwks(&[&second]))]));
    let _stop = renew(&setup);
    others_ran().await;
    let long = with(&json!({ "exp": NOW.as_secs() + 10_000 }));
    assert_eq!(setup.verify(&first.sign(&long)).await, Ok(Check::New));
    pass(&setup, 600).await;
    assert_eq!(setup.invalid(&first.sign(&long)).await, InvalidReason::Signature);
    assert_eq!(setup.verify(&second.sign(&long)).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn j9_without_a_key_set_tokens_are_neither_accepted_nor_invalid() {
    let key = TestKey::ed25519("k");
    let setup = remote_setup(ScriptedFetch::open([Err(FetchError::Timeout)]));
    match setup.verify(&key.sign(&claims())).await {
        Err(TokenError::KeysUnavailable { retry_after }) => assert!(retry_after >= Duration::from_secs(1)),
        other => panic!("{other:?}"),
    }
    let status = &setup.verifier.key_status()[0];
    assert!(!status.ready);
    assert_eq!((status.keys, status.refreshes_failed), (0, 1));
    // A token that no key could make valid is invalid, and causes no fetch.
    assert_eq!(setup.invalid(&key.sign(&with(&json!({ "iss": "x" })))).await, InvalidReason::Issuer);
    setup.fetch.now_answers(Ok(jwks(&[&key])));
    let _stop = renew(&setup);
    pass(&setup, 61).await;
    assert!(setup.verifier.key_status()[0].ready);
    assert_eq!(setup.verify(&key.sign(&claims())).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn j5_after_a_bad_response_the_last_good_set_is_used_until_it_is_stale() {
    let key = TestKey::ed25519("k");
    let long = with(&json!({ "exp": NOW.as_secs() + 100_000 }));
    let setup = remote_setup(ScriptedFetch::open([
        Ok(jwks(&[&key])),
        Ok("<html>".to_owned()),
        Ok(r#"{"keys":[]}"#.to_owned()),
    ]));
    let _stop = renew(&setup);
    others_ran().await;
    let token = key.sign(&long);
    let principal = setup.verifier.verify(&token).await.unwrap().principal;
    pass(&setup, 3_000).await;
    let status = &setup.verifier.key_status()[0];
    assert!(status.ready && status.refreshes_ok == 1 && status.refreshes_failed > 10, "{status:?}");
    assert_eq!(setup.verify(&token).await, Ok(Check::Seen));
    pass(&setup, 600).await; // 3,600 s: max_stale
    let recheck = setup.verifier.recheck(&principal);
    assert!(matches!(recheck, Err(TokenError::KeysUnavailable { .. })));
    assert!(matches!(setup.verify(&token).await, Err(TokenError::KeysUnavailable { .. })));
    assert!(!setup.verifier.key_status()[0].ready);
    setup.fetch.now_answers(Ok(jwks(&[&key])));
    pass(&setup, 61).await;
    assert_eq!(setup.verify(&token).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn renewal_comes_before_expiry_and_ends_when_dropped() {
    let key = TestKey::ed25519("k");
    let setup = remote_setup(ScriptedFetch::open([Ok(jwks(&[&key]))]));
    let stop = renew(&setup);
    pass(&setup, 599).await;
    assert_eq!(setup.fetch.calls(), 2);
    drop(stop);
    pass(&setup, 5_000).await;
    assert_eq!(setup.fetch.calls(), 2);
}

#[tokio::test]
async fn j10_the_saved_set_is_used_while_the_issuer_is_down() {
    let key = TestKey::ed25519("k");
    let state = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let start = |fetch: Arc<ScriptedFetch>| {
        let (clock, directory) = (clock.clone(), Some(state.path().to_owned()));
        Arc::new(TokenVerifier::new(vec![issuer(remote())], 10, clock, directory, fetch).unwrap())
    };
    let long = with(&json!({ "exp": NOW.as_secs() + 100_000 }));
    let first = start(ScriptedFetch::open([Ok(jwks(&[&key]))]));
    assert!(first.verify(&key.sign(&long)).await.is_ok());
    while std::fs::read_dir(state.path()).unwrap().all(|entry| entry.unwrap().path().extension().unwrap() != "json") {
        tokio::task::yield_now().await;
    }
    let down = ScriptedFetch::open([Err(FetchError::Timeout)]);
    let second = start(down.clone());
    assert!(second.key_status()[0].ready);
    assert!(second.verify(&key.sign(&long)).await.is_ok());
    assert_eq!(down.calls(), 0);
    clock.set(NOW.saturating_add(remote_keys().max_stale));
    let third = start(down);
    assert!(!third.key_status()[0].ready);
    assert!(matches!(third.verify(&key.sign(&long)).await, Err(TokenError::KeysUnavailable { .. })));
}

#[tokio::test]
async fn a_failed_save_is_counted_and_tokens_are_still_accepted() {
    let key = TestKey::ed25519("k");
    let state = tempfile::tempdir().unwrap().path().join("missing");
    let (clock, fetch) = (Arc::new(ManualClock::at(NOW)), ScriptedFetch::open([Ok(jwks(&[&key]))]));
    let verifier = TokenVerifier::new(vec![issuer(remote())], 10, clock, Some(state), fetch).unwrap();
    assert!(verifier.verify(&key.sign(&claims())).await.is_ok());
    while verifier.key_status()[0].saves_failed == 0 {
        tokio::task::yield_now().await;
    }
    assert!(verifier.key_status()[0].ready);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_set_is_searched_before_the_remote_one() {
    let (in_file, remote_only) = (TestKey::ed25519("file"), TestKey::ed25519("remote"));
    let both = || vec![issuer(KeySource { remote: Some(remote_keys()), ..fixed(&[&in_file]) })];
    let setup = setup_with(both(), BUDGET, ScriptedFetch::open([Ok(jwks(&[&in_file, &remote_only]))]));
    assert!(setup.verifier.key_status()[0].ready);
    assert_eq!(setup.verify(&in_file.sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.fetch.calls(), 0);
    assert_eq!(setup.verify(&remote_only.sign(&claims())).await, Ok(Check::New));
    assert_eq!(setup.fetch.calls(), 1);
    // A key in both sets counts once.
    let one = setup_with(both(), BUDGET, ScriptedFetch::open([Ok(jwks(&[&in_file]))]));
    let _stop = renew(&one);
    others_ran().await;
    let nameless = in_file.named(None);
    assert_eq!(one.verify(&nameless.sign(&claims())).await, Ok(Check::New));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_counts_as_failed_and_no_request_hangs() {
    let key = TestKey::ed25519("k");
    let clock = Arc::new(ManualClock::at(NOW));
    let verifier = TokenVerifier::new(vec![issuer(remote())], 1, clock, None, Arc::new(PanickingFetch)).unwrap();
    let result = verifier.verify(&key.sign(&claims())).await;
    assert!(matches!(result, Err(TokenError::KeysUnavailable { .. })));
    assert_eq!(verifier.key_status()[0].refreshes_failed, 1);
}

/// Signs tokens that outlive the key set. All are different, so none has a cached verdict.
fn long_lived(key: &TestKey, count: usize) -> Vec<BearerToken> {
    let exp = NOW.as_secs() + 100_000;
    let sign = |number| key.sign(&with(&json!({ "exp": exp, "jti": number })));
    (0..count).map(sign).collect()
}

/// Starts ten thousand simultaneous requests that use these tokens in turn.
fn herd(setup: &Setup, tokens: &[BearerToken]) -> JoinSet<Result<Check, TokenError>> {
    let mut requests = JoinSet::new();
    for token in tokens.iter().cycle().take(10_000) {
        let (verifier, token) = (setup.verifier.clone(), token.clone());
        requests.spawn(async move { verifier.verify(&token).await.map(|verified| verified.check) });
    }
    requests
}

/// Fetches the keys once; the next fetch hangs.
async fn setup_with_a_hanging_renewal(key: &TestKey) -> (Setup, Renewals) {
    let setup = remote_setup(ScriptedFetch::closed([Ok(jwks(&[key]))]));
    let stop = renew(&setup);
    setup.fetch.let_through(1);
    others_ran().await;
    assert_eq!(setup.fetch.calls(), 1);
    (setup, stop)
}

#[tokio::test(start_paused = true)]
async fn j11_j7_ten_thousand_requests_during_a_renewal_share_one_fetch_and_none_waits() {
    let key = TestKey::ed25519("k");
    let (setup, _stop) = setup_with_a_hanging_renewal(&key).await;
    let tokens = long_lived(&key, 1_000);
    pass(&setup, 600).await; // the refresh interval
    let arrived = tokio::time::Instant::now();
    let results = herd(&setup, &tokens).join_all().await;
    assert_eq!((results.len(), arrived.elapsed()), (10_000, Duration::ZERO));
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(setup.fetch.calls(), 2); // the second fetch still hangs
    assert!(setup.verifier.key_status()[0].age >= Some(Duration::from_secs(600)));
    setup.fetch.let_through(1);
    others_ran().await;
    assert_eq!(setup.verifier.key_status()[0].age, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn j11_ten_thousand_requests_beyond_max_stale_share_one_fetch_and_fail_with_it() {
    let key = TestKey::ed25519("k");
    let (setup, _stop) = setup_with_a_hanging_renewal(&key).await;
    let tokens = long_lived(&key, 1_000);
    setup.fetch.now_answers(Err(FetchError::Timeout));
    pass(&setup, 3_600).await; // max_stale
    assert_eq!(setup.fetch.calls(), 2);
    let mut requests = herd(&setup, &tokens);
    others_ran().await;
    assert!(requests.try_join_next().is_none(), "a request ended before the fetch");
    setup.fetch.let_through(1);
    for result in requests.join_all().await {
        assert!(matches!(result, Err(TokenError::KeysUnavailable { .. })), "{result:?}");
    }
    assert_eq!(setup.fetch.calls(), 2);
    // The endpoint works again.
    setup.fetch.now_answers(Ok(jwks(&[&key])));
    setup.fetch.let_through(1_000_000);
    pass(&setup, 61).await;
    assert_eq!(setup.verify(&tokens[0]).await, Ok(Check::New));
}
