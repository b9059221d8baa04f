use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::pushed::MAX_PUSHED;
use super::*;
use crate::auth::testing::{NOW, ScriptedFetch, TestKey, claims, fixed, issuer, remote_keys};
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
        Self::with(None)
    }

    /// Begins with what is saved in `state`.
    fn with(state: Option<&Path>) -> Self {
        let (clock, key) = (Arc::new(ManualClock::at(NOW)), TestKey::ed25519("k"));
        let issuers = vec![issuer(fixed(&[&key]))];
        let state = state.map(Path::to_owned);
        let verifier = TokenVerifier::new(issuers, 1 << 20, clock.clone(), state, ScriptedFetch::open([])).unwrap();
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
        let list = json!({ "revocations": entries }).to_string();
        self.verifier.revocations().push(list.as_bytes(), KEEP).map(|push| push.count)
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

fn settings(source: Option<RevocationSource>) -> RevocationSettings {
    let (interval, keep) = (Duration::from_secs(10), KEEP);
    RevocationSettings { source, first: None, interval, secret: None, remote_push: false, keep }
}

/// The settings of a list in a file, read as it is read with the configuration.
fn file(path: &Path) -> Option<RevocationSettings> {
    let first = Some(Arc::new(List::read(path).unwrap()));
    Some(RevocationSettings { first, ..settings(Some(RevocationSource::File(path.to_owned()))) })
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

#[tokio::test]
async fn pushes_are_bounded_and_repetitions_count_once() {
    let setup = Setup::new();
    setup.verifier.revocations().configure(Some(settings(None)));
    let many: Vec<_> = (0..MAX_PUSHED).map(|number| json!({ "jti": number.to_string() })).collect();
    assert_eq!(setup.push(&json!(many)), Ok(MAX_PUSHED));
    assert_eq!(setup.push(&json!(many[..100])), Ok(100));
    let count = || setup.verifier.revocations().status().unwrap().pushed;
    assert_eq!(count(), MAX_PUSHED);
    // A push that is not taken changes nothing, not even later.
    setup.clock.set(NOW.saturating_add(Duration::from_secs(1)));
    assert_eq!(setup.push(&json!([{ "jti": "0" }, { "jti": "one more" }])), Err(PushError::TooMany));
    assert_eq!(setup.push(&json!([{ "jti": "1" }])), Ok(1));
    assert!(!setup.accepts(&setup.token(&json!({ "jti": "0" }))).await);
    assert_eq!(count(), MAX_PUSHED);
    setup.clock.set(NOW.saturating_add(KEEP + Duration::from_secs(1)));
    assert_eq!(setup.push(&json!([{ "jti": "one more" }])), Ok(1));
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn t21_a_push_outlives_the_process_until_its_end() {
    let state = tempfile::tempdir().unwrap();
    let setup = Setup::with(Some(state.path()));
    let list = json!({ "revocations": [{ "sid": "s1" }, { "sub": "user-2", "not_before": NOW.as_secs() }] });
    let pushed = setup.verifier.revocations().push(list.to_string().as_bytes(), KEEP);
    assert_eq!(pushed, Ok(Push { count: 2, saved: true }));
    let next = Setup::with(Some(state.path()));
    let session = next.token(&json!({ "sid": "s1" }));
    assert!(!next.accepts(&session).await && next.accepts(&next.token(&json!({ "sid": "s2" }))).await);
    let of_user = |issued: u64| next.token(&json!({ "sub": "user-2", "iat": issued }));
    assert!(!next.accepts(&of_user(NOW.as_secs() - 1)).await && next.accepts(&of_user(NOW.as_secs())).await);
    next.clock.set(NOW.saturating_add(KEEP));
    assert!(next.accepts(&session).await, "it ends as it would have");
    let without = Setup::new();
    assert!(without.accepts(&without.token(&json!({ "sid": "s1" }))).await, "without a state folder");
}

#[tokio::test]
async fn t21_the_processes_of_an_upgrade_learn_of_each_others_pushes() {
    let state = tempfile::tempdir().unwrap();
    let [old, new] = [(); 2].map(|()| Setup::with(Some(state.path())));
    let token = new.token(&json!({ "sid": "s1" }));
    let mut changes = new.verifier.revocations().changes();
    old.push(&json!([{ "sid": "s1" }])).unwrap();
    assert!(new.accepts(&token).await);
    new.verifier.revocations().read_saved();
    assert!(!new.accepts(&token).await && changes.has_changed().unwrap());
    changes.mark_unchanged();
    new.verifier.revocations().read_saved();
    assert!(!changes.has_changed().unwrap(), "nothing new");
    // A push keeps what the other process has saved and this one has not read.
    old.push(&json!([{ "sid": "s2" }])).unwrap();
    new.push(&json!([{ "sid": "s3" }])).unwrap();
    let next = Setup::with(Some(state.path()));
    for (sid, accepted) in [("s1", false), ("s2", false), ("s3", false), ("s4", true)] {
        assert_eq!(next.accepts(&next.token(&json!({ "sid": sid }))).await, accepted, "{sid}");
    }
}

#[tokio::test]
async fn t21_a_push_that_cannot_be_saved_applies_and_says_so() {
    let state = tempfile::tempdir().unwrap();
    let missing = state.path().join("missing");
    let setup = Setup::with(Some(&missing));
    let pushed = setup.verifier.revocations().push(br#"{"revocations":[{"sid":"s1"}]}"#, KEEP);
    assert_eq!(pushed, Ok(Push { count: 1, saved: false }));
    assert!(!setup.accepts(&setup.token(&json!({ "sid": "s1" }))).await);
    // The next process would not read it.
    std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let setup = Setup::with(Some(state.path()));
    let pushed = setup.verifier.revocations().push(br#"{"revocations":[{"sid":"s1"}]}"#, KEEP);
    assert_eq!(pushed, Ok(Push { count: 1, saved: false }));
}

#[tokio::test]
async fn damaged_or_planted_saved_revocations_are_ignored() {
    let state = tempfile::tempdir().unwrap();
    let first = Setup::with(Some(state.path()));
    first.push(&json!([{ "sid": "s1" }])).unwrap();
    let path = state.path().join("revocations.json");
    let whole = std::fs::read(&path).unwrap();
    let revoked = async || {
        let setup = Setup::with(Some(state.path()));
        !setup.accepts(&setup.token(&json!({ "sid": "s1" }))).await
    };
    for text in [&whole[..whole.len() - 1], b"", b"null", br#"{"revocations":[{"sid":7}]}"#] {
        std::fs::write(&path, text).unwrap();
        assert!(!revoked().await);
    }
    std::fs::write(&path, &whole).unwrap();
    for (mode, expected) in [(0o1777, false), (0o700, true)] {
        std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(revoked().await, expected, "{mode:o}");
    }
}

async fn until(setup: &Setup, done: impl Fn(&RevocationStatus) -> bool) {
    while !done(&setup.verifier.revocations().status().unwrap()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn t21_no_token_is_accepted_before_the_list_was_read_once() {
    let setup = Setup::new();
    let revocations = setup.verifier.revocations();
    let token = setup.token(&json!({}));
    assert!(setup.accepts(&token).await);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/").parse().unwrap();
    let endpoint = Endpoint { url, private_address: true, ..remote_keys().endpoint };
    revocations.configure(Some(settings(Some(RevocationSource::Url(endpoint)))));
    let retry_after = Duration::from_secs(1);
    assert_eq!(setup.verifier.verify(&token).await.unwrap_err(), TokenError::Unavailable { retry_after });
    let mut renewals = crate::auth::Renewals::default();
    renewals.follow(&setup.verifier);
    until(&setup, |status| status.reads_failed == 1).await;
    assert!(revocations.status().unwrap().missing);
    assert_eq!(setup.verifier.verify(&token).await.unwrap_err(), TokenError::Unavailable { retry_after });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    std::fs::write(&path, r#"{"revocations":[]}"#).unwrap();
    revocations.configure(file(&path));
    assert!(!revocations.status().unwrap().missing && setup.accepts(&token).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_once_for_its_start_and_tokens_are_looked_up_again_only_after_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.json");
    std::fs::write(&path, r#"{"revocations":[{"sid":"s1"}]}"#).unwrap();
    let setup = Setup::new();
    let revocations = setup.verifier.revocations();
    revocations.configure(file(&path));
    let generation = *revocations.changes().borrow();
    let mut renewals = crate::auth::Renewals::default();
    renewals.follow(&setup.verifier);
    assert_eq!(revocations.status().unwrap().reads_ok, 1);
    until(&setup, |status| status.reads_ok == 3).await;
    // A reload reads it too.
    revocations.configure(file(&path));
    assert_eq!((revocations.status().unwrap().reads_ok, *revocations.changes().borrow()), (4, generation));
    std::fs::write(&path, r#"{"revocations":[]}"#).unwrap();
    revocations.configure(file(&path));
    assert_eq!(*revocations.changes().borrow(), generation + 1);
    assert!(setup.accepts(&setup.token(&json!({ "sid": "s1" }))).await);
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
