//! A running shapegate takes a new configuration: entirely or not at all, at once, and without failing requests.

mod certificate;
mod file;
mod load;
mod swap;
mod waiting;

use shapegate::secret::Secret;

use crate::harness::{AUDIENCE, Gate, IssuerServer, RULES, Setup};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
const ITEMS: &str = "/api/items?offset=-1";

/// Returns the `[[issuer]]` section of another issuer.
fn table_of(issuer: &IssuerServer) -> String {
    let url = issuer.url();
    format!(
        "\n[[issuer]]\nissuer = '{url}'\naudience = '{AUDIENCE}'\nalgorithms = ['EdDSA']\nleeway = '0s'\n\
         jwks = {{ url = '{url}/jwks', cooldown = '1s' }}\n"
    )
}

/// Signs a token of `issuer` for `organization`.
fn token_of(issuer: &IssuerServer, organization: &str) -> String {
    issuer.token(&serde_json::json!({ "sub": "user-1", "organizationIds": [organization], "roles": ["admin"] }))
}

async fn status(gate: &Gate, target: &str, token: &str) -> (u16, String) {
    let answer = gate.get(target, token).await;
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status.as_u16(), code)
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn ok() -> (u16, String) {
    (200, String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_adds_removes_and_changes_rules() {
    let gate = Gate::start().await;
    let token = token_of(&gate.issuer, "org_1");
    assert_eq!(status(&gate, TASKS, &token).await, ok());
    assert_eq!(status(&gate, ITEMS, &token).await, ok());
    // One, unless the machine was so slow that the first fetch was given up and repeated.
    let fetches = gate.issuer.fetches();
    let (tasks, items) = RULES.split_at(RULES.find("[[shape]]\npath").unwrap());
    gate.policy.reload(|setup| setup.rules = items.to_owned(), |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, refused(404, "shape_not_found"));
    assert_eq!(status(&gate, ITEMS, &token).await, ok());
    let stricter = tasks.replace("query.organizationId in", "claims.sub == 'user-2' && query.organizationId in");
    gate.policy.reload(|setup| setup.rules = stricter, |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, refused(403, "forbidden"));
    assert_eq!(status(&gate, ITEMS, &token).await, refused(404, "not_found"));
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, ok());
    assert_eq!(gate.issuer.fetches(), fetches, "the issuer has not changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_adds_and_removes_an_issuer_without_affecting_others() {
    let (gate, other) = (Gate::start().await, IssuerServer::start().await);
    let (ours, theirs) = (token_of(&gate.issuer, "org_1"), token_of(&other, "org_1"));
    assert_eq!(status(&gate, TASKS, &ours).await, ok());
    assert_eq!(status(&gate, TASKS, &theirs).await, refused(401, "token_invalid"));
    gate.policy.reload(|setup| setup.rules += &table_of(&other), |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &theirs).await, ok());
    gate.until_metric(&format!("shapegate_keys{{issuer=\"{}\"}}", other.url()), 1.0).await;
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &theirs).await, refused(401, "token_invalid"));
    assert!(!gate.admin("/metrics").await.text().contains(other.url()), "a removed issuer has no metrics");
    assert_eq!(status(&gate, TASKS, &ours).await, ok());
    assert_eq!(gate.metric("shapegate_token_checks_total{outcome=\"new\"}").await, 2.0, "one for each token");
    assert_eq!(gate.issuer.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stricter_issuer_settings_apply_to_tokens_already_accepted() {
    let gate = Gate::start().await;
    let token = token_of(&gate.issuer, "org_1");
    assert_eq!(status(&gate, TASKS, &token).await, ok());
    gate.issuer.set_up(false);
    gate.policy.reload(|_| {}, |config| config.issuers[0].audience = vec!["https://other.test".to_owned()]).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, refused(401, "token_invalid"));
    // The fetched keys stay in use although the issuer is down, since their URL has not changed.
    gate.policy.reload(|setup| setup.jwks = ", refresh = '1m'".to_owned(), |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, ok());
    gate.policy.reload(|setup| setup.issuer = "max_lifetime = '10s'".to_owned(), |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, refused(401, "token_invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_accepts_an_issuer_without_keys_and_reports_not_ready() {
    let (gate, other) = (Gate::start().await, IssuerServer::start().await);
    other.set_up(false);
    let (ours, theirs) = (token_of(&gate.issuer, "org_1"), token_of(&other, "org_1"));
    assert_eq!(status(&gate, TASKS, &ours).await, ok());
    assert_eq!(gate.admin("/readyz").await.status, 200);
    gate.policy.reload(|setup| setup.rules += &table_of(&other), |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &theirs).await, refused(503, "keys_unavailable"));
    assert_eq!(status(&gate, TASKS, &ours).await, ok());
    let ready = gate.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains(&format!("issuer {}: no usable keys", other.url())), "{}", ready.text());
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(gate.admin("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_limits_apply_to_the_next_request() {
    let gate = Gate::start().await;
    let token = token_of(&gate.issuer, "org_1");
    let padded = async || {
        let request = gate.request(TASKS, Some(&token)).header("x-padding", "x".repeat(4_000));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(padded().await, 200);
    let few = "[limits]\nheader_bytes = '2KiB'\nrequests_per_subject = 1\nflights_per_subject = 1\n";
    gate.policy.reload(|setup| setup.rules += few, |_| {}).unwrap();
    assert_eq!(padded().await, 431);
    gate.electric.hold();
    let held = gate.request(&format!("{TASKS}&handle=1"), Some(&token)).send();
    let held = tokio::spawn(held);
    gate.electric.wait_for_requests(2).await;
    assert_eq!(status(&gate, TASKS, &token).await, refused(429, "too_many_requests"));
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(status(&gate, TASKS, &token).await, ok(), "cached, so Electric is not asked");
    gate.electric.release();
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    assert_eq!(padded().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_secret_applies_to_the_next_request() {
    let gate = Gate::start().await;
    let token = token_of(&gate.issuer, "org_1");
    // Named handles that are not cached, so that Electric is asked.
    let ask = async |number: u32| status(&gate, &format!("{TASKS}&handle={number}"), &token).await;
    assert_eq!(ask(1).await, ok());
    let with = |secret: &'static str| {
        gate.policy.reload(|_| {}, move |config| config.upstream.secret = Some(Secret::new(secret))).unwrap();
    };
    with("another-secret");
    assert_eq!(status(&gate, TASKS, &token).await, ok(), "cached responses stay valid");
    assert_eq!(ask(2).await, refused(502, "upstream_refused"));
    with(crate::harness::SECRET);
    assert_eq!(ask(3).await, ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_electric_url_drops_cached_responses_and_updates_readiness() {
    let (gate, other) = (Gate::start().await, Gate::start().await);
    let token = token_of(&gate.issuer, "org_1");
    gate.insert_task(1, "org_1", "here");
    other.insert_task(1, "org_1", "there");
    assert_eq!(gate.get(TASKS, &token).await.rows("title"), ["here"]);
    let url = other.electric.url();
    gate.policy.reload(|setup| setup.electric_url = Some(url), |_| {}).unwrap();
    assert_eq!(gate.get(TASKS, &token).await.rows("title"), ["there"], "no response of the previous Electric is used");
    other.electric.set_ready(false);
    gate.until_metric("shapegate_ready", 0.0).await;
    assert_eq!(gate.admin("/readyz").await.status, 503);
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(gate.admin("/readyz").await.status, 200);
    assert_eq!(gate.get(TASKS, &token).await.rows("title"), ["here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_cors_origins_apply_to_the_next_request() {
    let gate =
        Gate::with(Setup { rules: format!("{RULES}[cors]\norigins = ['https://a.test']\n"), ..Setup::default() }).await;
    let token = token_of(&gate.issuer, "org_1");
    let origin = async |origin: &str| {
        let answer = gate.request(TASKS, Some(&token)).header("origin", origin).send().await.unwrap();
        answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(origin("https://a.test").await.as_deref(), Some("https://a.test"));
    assert_eq!(origin("https://b.test").await, None);
    let other = |setup: &mut Setup| setup.rules = setup.rules.replace("a.test", "b.test");
    gate.policy.reload(other, |_| {}).unwrap();
    assert_eq!(origin("https://b.test").await.as_deref(), Some("https://b.test"));
    assert_eq!(origin("https://a.test").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_responses_survive_a_reload_unless_the_cache_size_changes() {
    let gate = Gate::start().await;
    let token = token_of(&gate.issuer, "org_1");
    let kept = async || gate.metric("shapegate_kept_flights").await;
    assert_eq!(status(&gate, TASKS, &token).await, ok());
    gate.policy.reload(|setup| setup.rules += "[cache]\nheader = true\ngrace = '1s'\n", |_| {}).unwrap();
    assert_eq!(gate.get(TASKS, &token).await.header("shapegate-cache"), "fresh");
    assert_eq!((kept().await, gate.electric.request_count()), (1.0, 1));
    gate.policy.reload(|setup| setup.rules += "[cache]\nbytes = '1MiB'\nheader = true\n", |_| {}).unwrap();
    assert_eq!(kept().await, 0.0);
    assert_eq!(gate.get(TASKS, &token).await.header("shapegate-cache"), "miss");
    assert_eq!(gate.metric("shapegate_limit{of=\"kept_bytes\"}").await, f64::from(1024 * 1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_adds_and_removes_a_gatekeeper_with_its_tokens() {
    let gate = Gate::start().await;
    let user = token_of(&gate.issuer, "org_1");
    let mint = async || gate.post("/gatekeeper/tasks?organizationId=org_1", &user, "").await;
    let section = |lifetime: &str| {
        format!(
            "[gatekeeper]\nissuer = 'https://shapes.test'\naudience = '{AUDIENCE}'\nlifetime = '{lifetime}'\n\
             public_url = '{}/v1/shape'\nhs256 = {{ env = 'GATEKEEPER_SECRET' }}\n",
            gate.url
        )
    };
    assert_eq!(mint().await.status, 404);
    gate.policy.reload(|setup| setup.rules += &section("1h"), |_| {}).unwrap();
    let minted = mint().await;
    assert_eq!(minted.status, 200, "{}", minted.text());
    let options = minted.json();
    let token = options["headers"]["Authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
    let mut query = url::form_urlencoded::Serializer::new("/v1/shape?offset=-1&table=tasks".to_owned());
    query.append_pair("where", options["where"].as_str().unwrap()).append_pair("params[1]", "org_1");
    let query = query.finish();
    assert_eq!(status(&gate, &query, &token).await, ok());
    // A changed lifetime applies to new tokens only; without a gatekeeper every shape token is rejected.
    gate.policy.reload(|setup| setup.rules += &section("2h"), |_| {}).unwrap();
    assert_eq!(status(&gate, &query, &token).await, ok());
    gate.policy.reload(|_| {}, |_| {}).unwrap();
    assert_eq!(status(&gate, &query, &token).await, refused(401, "token_invalid"));
    assert_eq!(mint().await.status, 404);
}
