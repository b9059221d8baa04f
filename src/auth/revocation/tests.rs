use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{NOW, ScriptedFetch, TestKey, claims, fixed, issuer};
use crate::auth::{BearerToken, TokenVerifier};
use crate::clock::ManualClock;

const KEEP: Duration = Duration::from_secs(3600);

struct Setup {
    verifier: TokenVerifier,
    clock: Arc<ManualClock>,
    key: TestKey,
}

impl Setup {
    fn new() -> Self {
        let (clock, key) = (Arc::new(ManualClock::at(NOW)), TestKey::ed25519("k"));
        let issuers = vec![issuer(fixed(&[&key]))];
        let verifier = TokenVerifier::new(issuers, 1 << 20, clock.clone(), None, ScriptedFetch::open([])).unwrap();
        Self { verifier, clock, key }
    }

    fn token(&self, changes: &Value) -> BearerToken {
        let mut claims = claims();
        claims["exp"] = (NOW.as_secs() + 100_000).into();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.key.sign(&claims)
    }

    fn push(&self, entries: &Value) -> Result<usize, PushError> {
        self.verifier.revocations().push(json!({ "revocations": entries }).to_string().as_bytes(), KEEP)
    }

    async fn accepts(&self, token: &BearerToken) -> bool {
        match self.verifier.verify(token).await {
            Ok(verified) => {
                assert_eq!(self.verifier.recheck(&verified.principal), Ok(()));
                true
            }
            Err(error) => {
                assert_eq!(error, InvalidReason::Revoked.into());
                false
            }
        }
    }
}

fn file(path: &std::path::Path) -> Option<RevocationSettings> {
    let source = Some(RevocationSource::File(path.to_owned()));
    let (interval, keep) = (Duration::from_secs(10), KEEP);
    Some(RevocationSettings { source, interval, secret: None, remote_push: false, keep })
}

#[tokio::test]
async fn t21_a_push_applies_to_cached_verdicts_and_waiting_callers_at_once() {
    let setup = Setup::new();
    let (gone, stays) = (setup.token(&json!({ "sid": "s1" })), setup.token(&json!({ "sid": "s2" })));
    let waiting = setup.verifier.verify(&gone).await.unwrap().principal;
    assert!(setup.accepts(&gone).await && setup.accepts(&stays).await);
    let mut changes = setup.verifier.revocations().changes();
    assert_eq!(setup.push(&json!([{ "sid": "s1" }])), Ok(1));
    assert!(changes.has_changed().unwrap());
    assert_eq!(setup.verifier.recheck(&waiting), Err(InvalidReason::Revoked.into()));
    assert!(!setup.accepts(&gone).await && setup.accepts(&stays).await);
    assert!(!setup.accepts(&setup.token(&json!({ "sid": "s1", "jti": "new" }))).await, "a token never seen before");
    // A successor after a reload has them too.
    let after = setup.verifier.successor(vec![issuer(fixed(&[&setup.key]))], 1 << 21).unwrap();
    assert_eq!(after.verify(&gone).await.unwrap_err(), InvalidReason::Revoked.into());
    changes.mark_unchanged();
    assert!(setup.push(&json!([{ "sid": 1 }])).is_err() && !changes.has_changed().unwrap());
}

#[tokio::test]
async fn a_pushed_revocation_ends_after_its_time() {
    let setup = Setup::new();
    let token = setup.token(&json!({ "jti": "t1" }));
    setup.push(&json!([{ "jti": "t1" }])).unwrap();
    setup.clock.set(NOW.saturating_add(KEEP - Duration::from_secs(1)));
    assert!(!setup.accepts(&token).await);
    setup.clock.set(NOW.saturating_add(KEEP));
    assert!(setup.accepts(&token).await);
}

#[test]
fn pushes_are_bounded_and_repetitions_count_once() {
    let setup = Setup::new();
    setup.verifier.revocations().configure(Some(RevocationSettings {
        source: None,
        interval: KEEP,
        secret: None,
        remote_push: false,
        keep: KEEP,
    }));
    let many: Vec<_> = (0..MAX_PUSHED).map(|number| json!({ "jti": number.to_string() })).collect();
    assert_eq!(setup.push(&json!(many)), Ok(MAX_PUSHED));
    assert_eq!(setup.push(&json!(many[..100])), Ok(100));
    assert_eq!(setup.verifier.revocations().status().unwrap().pushed, MAX_PUSHED);
    assert_eq!(setup.push(&json!([{ "jti": "one more" }])), Err(PushError::TooMany));
    setup.clock.set(NOW.saturating_add(KEEP));
    assert_eq!(setup.push(&json!([{ "jti": "one more" }])), Ok(1));
    assert_eq!(setup.verifier.revocations().status().unwrap().pushed, 1);
}

async fn until(setup: &Setup, done: impl Fn(&RevocationStatus) -> bool) {
    while !done(&setup.verifier.revocations().status().unwrap()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn t21_no_token_is_accepted_before_the_list_was_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    let setup = Setup::new();
    let revocations = setup.verifier.revocations();
    let token = setup.token(&json!({}));
    assert!(setup.accepts(&token).await);
    revocations.configure(file(&path));
    let retry_after = Duration::from_secs(1);
    assert_eq!(setup.verifier.verify(&token).await.unwrap_err(), TokenError::Unavailable { retry_after });
    let mut renewals = crate::auth::Renewals::default();
    renewals.follow(&setup.verifier);
    until(&setup, |status| status.reads_failed == 1).await;
    assert!(revocations.status().unwrap().missing);
    assert_eq!(setup.verifier.verify(&token).await.unwrap_err(), TokenError::Unavailable { retry_after });
    std::fs::write(&path, r#"{"revocations":[]}"#).unwrap();
    drop(renewals);
    let mut renewals = crate::auth::Renewals::default();
    renewals.follow(&setup.verifier);
    until(&setup, |status| !status.missing).await;
    assert!(setup.accepts(&token).await);
}

#[tokio::test(start_paused = true)]
async fn t21_a_list_that_cannot_be_read_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    std::fs::write(&path, r#"{"revocations":[{"sub":"user-1"}]}"#).unwrap();
    let setup = Setup::new();
    let revocations = setup.verifier.revocations();
    let (gone, stays) = (setup.token(&json!({})), setup.token(&json!({ "sub": "user-2" })));
    revocations.configure(file(&path));
    let mut renewals = crate::auth::Renewals::default();
    renewals.follow(&setup.verifier);
    until(&setup, |status| status.reads_ok == 1).await;
    assert!(!setup.accepts(&gone).await && setup.accepts(&stays).await);
    let generation = *revocations.changes().borrow();
    for text in [None, Some(""), Some("{}"), Some(r#"{"revocations":[{}]}"#)] {
        match text {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let failed = revocations.status().unwrap().reads_failed;
        until(&setup, |status| status.reads_failed > failed + 1).await;
        assert!(revocations.status().unwrap().failing);
        assert!(!setup.accepts(&gone).await && setup.accepts(&stays).await);
    }
    assert_eq!(*revocations.changes().borrow(), generation, "nothing was announced");
    std::fs::write(&path, r#"{"revocations":[{"sub":"user-2"}]}"#).unwrap();
    until(&setup, |status| !status.failing).await;
    assert!(setup.accepts(&gone).await && !setup.accepts(&stays).await);
    // Without [revocation], the list no longer counts.
    revocations.configure(None);
    assert!(setup.accepts(&stays).await);
}
