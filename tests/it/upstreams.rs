//! Several Electrics: servers of one upstream, one upstream for each tenant, secret rotation, and custom CAs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use shapegate::config::Config;
use shapegate::demo::electric::{Electric, Options, Readiness};

use crate::harness::{Answer, Certificate, Gate, NEXT_SECRET, RULES, SECRET, Setup, TlsFront, start_electric};

/// Starts a gate with `count` servers, and returns the servers other than its own stand-in.
async fn pool(count: usize, tune: fn(&mut Config)) -> (Gate, Vec<Electric>) {
    let mut others = Vec::new();
    for _ in 1..count {
        others.push(start_electric(quick()).await);
    }
    let electric_urls = others.iter().map(Electric::url).collect();
    let setup = Setup { electric: quick(), electric_urls, tune, ..Setup::default() };
    (Gate::with(setup).await, others)
}

fn quick() -> Options {
    Options { hold: Duration::from_millis(100), not_ready_wait: Duration::ZERO, ..Options::default() }
}

/// Checks health every 20 ms and never moves shapes.
fn patient(config: &mut Config) {
    config.upstream.health_interval = Duration::from_millis(20);
    config.upstream.failover = Duration::from_secs(3600);
}

/// Checks health every 20 ms and moves shapes after 100 ms.
fn hasty(config: &mut Config) {
    config.upstream.health_interval = Duration::from_millis(20);
    config.upstream.failover = Duration::from_millis(100);
}

fn tasks(organization: usize, rest: &str) -> String {
    format!("/v1/shape?table=tasks&organizationId=org_{organization}&{rest}")
}

/// Signs a token for every organization used here.
fn token(gate: &Gate) -> String {
    let organizations: Vec<_> = (0..ORGANIZATIONS).map(|number| format!("org_{number}")).collect();
    gate.token(&organizations.iter().map(String::as_str).collect::<Vec<_>>())
}

const ORGANIZATIONS: usize = 60;

/// Returns the organizations whose shapes were requested from this server.
fn asked(electric: &Electric) -> BTreeSet<String> {
    let requests = electric.requests().into_iter().filter_map(|request| {
        let (_, rest) = request.target.split_once("params%5B1%5D=")?;
        Some(rest.split('&').next()?.to_owned())
    });
    requests.collect()
}

/// Finds the first organization whose shape is on this server.
async fn organization_of(gate: &Gate, electric: &Electric) -> usize {
    let token = token(gate);
    for organization in 0..ORGANIZATIONS {
        let before = electric.request_count();
        assert_eq!(gate.get(&tasks(organization, "offset=-1"), &token).await.status, 200);
        if electric.request_count() > before {
            return organization;
        }
    }
    panic!("no shape is on {}", electric.url());
}

async fn until_server(gate: &Gate, metric: &str, url: &str, value: f64) {
    gate.until_metric(&format!("{metric}{{server=\"{url}\",upstream=\"default\"}}"), value).await;
}

fn assert_waits(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "not_ready"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shape_stays_on_one_server_and_shapes_are_spread() {
    let (gate, others) = pool(3, patient).await;
    let token = token(&gate);
    for organization in 0..ORGANIZATIONS {
        let first = gate.get(&tasks(organization, "offset=-1"), &token).await;
        assert_eq!(first.status, 200);
        let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
        for rest in ["", "&live=true", "&live=true&live_sse=true"] {
            let request =
                gate.request(&tasks(organization, &format!("offset={offset}&handle={handle}{rest}")), Some(&token));
            // The body is not read: an event stream has no end.
            assert_eq!(request.send().await.unwrap().status(), 200, "{rest}");
        }
    }
    let asked: Vec<_> = [&gate.electric].into_iter().chain(&others).map(asked).collect();
    assert_eq!(asked.iter().map(BTreeSet::len).sum::<usize>(), ORGANIZATIONS, "{asked:#?}");
    assert!(asked.iter().all(|organizations| !organizations.is_empty()), "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn subset_is_sent_to_the_server_of_its_shape() {
    let others = [start_electric(quick()).await, start_electric(quick()).await];
    let rules = RULES.replace("where = '", "subset = true\nwhere = '");
    let electric_urls = others.iter().map(Electric::url).collect();
    let gate = Gate::with(Setup { rules, electric_urls, tune: patient, ..Setup::default() }).await;
    let token = token(&gate);
    for organization in 0..10 {
        assert_eq!(gate.get(&tasks(organization, "offset=-1"), &token).await.status, 200);
        let body = r#"{"where":"title = 'x'","order_by":"title","limit":1}"#;
        assert_eq!(gate.post(&tasks(organization, "offset=-1"), &token, body).await.status, 200);
        let by_query = tasks(organization, "offset=-1&subset__where=title%20%3D%20'x'");
        assert_eq!(gate.get(&by_query, &token).await.status, 200);
    }
    let asked: Vec<_> = [&gate.electric].into_iter().chain(&others).map(asked).collect();
    assert_eq!(asked.iter().map(BTreeSet::len).sum::<usize>(), 10, "{asked:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_not_ready_keeps_its_shapes_and_their_clients_get_503() {
    let (gate, others) = pool(2, patient).await;
    let (token, sick) = (token(&gate), &others[0]);
    let organization = organization_of(&gate, sick).await;
    let well = organization_of(&gate, &gate.electric).await;
    let handle = gate.get(&tasks(organization, "offset=-1"), &token).await.header("electric-handle").to_owned();
    for (number, readiness) in [Readiness::Starting, Readiness::Waiting].into_iter().enumerate() {
        sick.set_readiness(readiness);
        until_server(&gate, "shapegate_upstream_active", &sick.url(), 0.0).await;
        let (asked, elsewhere) = (sick.request_count(), gate.electric.request_count());
        // A position that no other request has named.
        let rest = format!("offset=0_{}&handle={handle}", number + 1);
        assert_waits(&gate.get(&tasks(organization, &rest), &token).await);
        assert_eq!((sick.request_count(), gate.electric.request_count()), (asked, elsewhere));
        // The other server still serves.
        assert_eq!(gate.get(&tasks(well, &format!("offset=-1&handle={readiness:?}")), &token).await.status, 200);
        let ready = gate.admin("/readyz").await;
        assert_eq!((ready.status.as_u16(), &ready.json()["ready"]), (200, &json!(true)));
        assert_eq!(ready.json()["degraded"][0], format!("Electric default ({}): /v1/health returns 202", sick.url()));
        sick.set_ready(true);
        until_server(&gate, "shapegate_upstream_active", &sick.url(), 1.0).await;
        // The handle is still valid, so no client loads the shape again.
        let again = gate.get(&tasks(organization, &rest.replace("0_", "0_1")), &token).await;
        assert_eq!((again.status.as_u16(), again.header("electric-handle")), (200, handle.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_of_a_dead_server_move_after_failover_and_return_on_recovery() {
    let (gate, mut others) = pool(2, hasty).await;
    let token = token(&gate);
    let organization = organization_of(&gate, &others[0]).await;
    let handle = gate.get(&tasks(organization, "offset=-1"), &token).await.header("electric-handle").to_owned();
    let dead = others.remove(0);
    let (url, port) = (dead.url(), dead.addr().port());
    drop(dead);
    until_server(&gate, "shapegate_upstream_in_rotation", &url, 0.0).await;
    // The other server does not know the handle: the client gets one 409.
    let behind = tasks(organization, &format!("offset=0_inf&handle={handle}"));
    let moved = gate.get(&behind, &token).await;
    assert_eq!(moved.status, 409, "{moved:?}");
    let anew = format!("offset=-1&handle={}", moved.header("electric-handle"));
    let served = gate.electric.request_count();
    assert_eq!(gate.get(&tasks(organization, &anew), &token).await.status, 200);
    assert_eq!(gate.electric.request_count(), served + 1);

    let back = start_electric(Options { port, ..quick() }).await;
    until_server(&gate, "shapegate_upstream_in_rotation", &url, 1.0).await;
    let served = back.request_count();
    assert_eq!(gate.get(&tasks(organization, "offset=-1&handle=2"), &token).await.status, 200);
    assert_eq!(back.request_count(), served + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_gives_503_before_a_health_check_has_failed() {
    let (gate, mut others) = pool(2, |config| {
        patient(config);
        config.upstream.health_interval = Duration::from_secs(60);
    })
    .await;
    let organization = organization_of(&gate, &others[0]).await;
    let dead = others.remove(0);
    let url = dead.url();
    drop(dead);
    let answer = gate.get(&tasks(organization, "offset=-1&handle=1"), &token(&gate)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "not_ready"), "{answer:?}");
    assert_eq!(
        gate.metric(&format!("shapegate_upstream_in_rotation{{server=\"{url}\",upstream=\"default\"}}")).await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_standby_gets_no_shapes_at_start() {
    let standby = start_electric(quick()).await;
    standby.set_readiness(Readiness::Waiting);
    let setup = Setup { electric: quick(), electric_urls: vec![standby.url()], tune: patient, ..Setup::default() };
    let gate = Gate::with(setup).await;
    until_server(&gate, "shapegate_upstream_in_rotation", &standby.url(), 0.0).await;
    let (token, asked) = (token(&gate), standby.request_count());
    for organization in 0..10 {
        assert_eq!(gate.get(&tasks(organization, "offset=-1"), &token).await.status, 200);
    }
    assert_eq!(standby.request_count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_keep_their_server_after_an_outage_of_all_servers() {
    let (gate, others) = pool(2, hasty).await;
    let organization = organization_of(&gate, &others[0]).await;
    let both = [&gate.electric, &others[0]];
    both.iter().for_each(|electric| electric.set_ready(false));
    for electric in both {
        until_server(&gate, "shapegate_upstream_active", &electric.url(), 0.0).await;
    }
    let ready = gate.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["missing"].as_array().map(Vec::len)), (503, Some(2)));
    both.iter().for_each(|electric| electric.set_ready(true));
    for electric in both {
        until_server(&gate, "shapegate_upstream_active", &electric.url(), 1.0).await;
    }
    let served = others[0].request_count();
    assert_eq!(gate.get(&tasks(organization, "offset=-1&handle=1"), &token(&gate)).await.status, 200);
    assert_eq!(others[0].request_count(), served + 1);
}

/// One Electric for each tenant, and a default one that no tenant uses.
struct Tenants {
    gate: Gate,
    electrics: BTreeMap<&'static str, Electric>,
}

const BY_CLAIM: &str = r#"
[[shape]]
table = "items"
where = "none"
upstream = { claim = "claims.tenant", map = { acme = "acme-db", globex = "globex-db" } }
"#;

impl Tenants {
    async fn start(rules: &str, more: &str) -> Self {
        let mut electrics = BTreeMap::new();
        let mut tables = String::new();
        for (id, tenant) in ["acme", "globex"].into_iter().enumerate() {
            let electric = start_electric(quick()).await;
            electric.insert("items", json!({ "id": id, "user_id": "u", "title": tenant })).unwrap();
            tables += &format!(
                "[upstreams.{tenant}-db]\nurl = '{}'\nsecret = {{ env = 'ELECTRIC_SECRET' }}\nsource_id = 'source-{tenant}'\n",
                electric.url()
            );
            electrics.insert(tenant, electric);
        }
        let gate = Gate::with(Setup { rules: format!("{tables}{rules}{more}"), ..Setup::default() }).await;
        gate.electric.insert("items", json!({ "id": 9, "user_id": "u", "title": "default" })).unwrap();
        Self { gate, electrics }
    }

    fn token(&self, claims: &Value) -> String {
        self.gate.issuer.token(claims)
    }
}

const ITEMS: &str = "/v1/shape?table=items&offset=-1";

#[tokio::test(flavor = "multi_thread")]
async fn claim_selects_the_tenant_upstream_and_tenants_share_no_responses() {
    let Tenants { gate, electrics } = &Tenants::start(BY_CLAIM, "").await;
    let tokens: Vec<_> = electrics.keys().map(|tenant| gate.issuer.token(&json!({ "tenant": tenant }))).collect();
    electrics.values().for_each(Electric::hold);
    // Identical requests at the same time.
    let asking = tokens.iter().map(|token| {
        let request = gate.request(ITEMS, Some(token));
        tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await })
    });
    let asking: Vec<_> = asking.collect();
    for electric in electrics.values() {
        electric.wait_for_requests(1).await;
        electric.release();
    }
    for (tenant, asking) in electrics.keys().zip(asking) {
        assert_eq!(asking.await.unwrap().rows("title"), [*tenant]);
    }
    // Cached responses are not shared either.
    for (tenant, token) in electrics.keys().zip(&tokens) {
        assert_eq!(gate.get(ITEMS, token).await.rows("title"), [*tenant]);
    }
    for (tenant, electric) in electrics {
        assert_eq!(electric.request_count(), 1);
        assert!(electric.requests()[0].target.contains(&format!("source_id=source-{tenant}")));
    }
    // A 409 for a handle at one upstream evicts nothing of the other.
    let purges = gate.metric("shapegate_purges_total").await;
    let handle = gate.get(ITEMS, &tokens[0]).await.header("electric-handle").to_owned();
    let foreign = format!("/v1/shape?table=items&offset=0_inf&handle={handle}");
    assert_eq!(gate.get(&foreign, &tokens[1]).await.status, 409);
    assert_eq!(gate.metric("shapegate_purges_total").await, purges);
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_without_a_mapped_upstream_is_denied() {
    let tenants = Tenants::start(BY_CLAIM, "").await;
    for claims in [
        json!({}),
        json!({ "tenant": "other" }),
        json!({ "tenant": "default" }),
        json!({ "tenant": "acme-db" }),
        json!({ "tenant": ["acme"] }),
        json!({ "tenant": null }),
        json!({ "tenant": 7 }),
    ] {
        // A parameter of the client is ignored.
        let answer = tenants.gate.get(&format!("{ITEMS}&tenant=acme"), &tenants.token(&claims)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "forbidden"), "{claims}");
    }
    let asked: usize = tenants.electrics.values().map(Electric::request_count).sum();
    assert_eq!(asked + tenants.gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_can_name_its_upstream() {
    let rules = "[[shape]]\ntable = 'items'\nwhere = 'none'\nupstream = 'globex-db'\n\
                 [[shape]]\npath = '/own'\ntable = 'items'\nwhere = 'none'\n";
    let tenants = Tenants::start(rules, "").await;
    let token = tenants.token(&json!({}));
    assert_eq!(tenants.gate.get(ITEMS, &token).await.rows("title"), ["globex"]);
    assert_eq!(tenants.gate.get("/own?offset=-1", &token).await.rows("title"), ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_token_is_served_by_the_upstream_of_its_claim() {
    let gatekeeper = "[gatekeeper]\nissuer = 'https://shapes.test'\naudience = 'https://app.test'\n\
                      public_url = 'https://sync.test/v1/shape'\nhs256 = { env = 'GATEKEEPER_SECRET' }\n";
    let tenants = Tenants::start(BY_CLAIM, gatekeeper).await;
    for tenant in ["globex", "acme"] {
        let minted = tenants.gate.post("/gatekeeper/items", &tenants.token(&json!({ "tenant": tenant })), "").await;
        assert_eq!(minted.status, 200, "{minted:?}");
        let bearer = minted.json()["headers"]["Authorization"].as_str().unwrap().to_owned();
        let token = bearer.strip_prefix("Bearer ").unwrap();
        assert_eq!(tenants.gate.get(ITEMS, token).await.rows("title"), [tenant]);
        // Parameters of the client do not change the upstream.
        let talked = tenants.gate.get(&format!("{ITEMS}&upstream=acme-db&tenant=acme"), token).await;
        assert_eq!(talked.rows("title"), [tenant]);
    }
    let denied = tenants.gate.post("/gatekeeper/items", &tenants.token(&json!({ "tenant": "x" })), "").await;
    assert_eq!(denied.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_tenant_upstream_does_not_affect_other_tenants() {
    let mut tenants = Tenants::start(BY_CLAIM, "").await;
    let dead = tenants.electrics.remove("acme").unwrap();
    let url = dead.url();
    drop(dead);
    let metric =
        |upstream: &str, url: &str| format!("shapegate_upstream_active{{server=\"{url}\",upstream=\"{upstream}\"}}");
    tenants.gate.until_metric(&metric("acme-db", &url), 0.0).await;
    tenants.gate.until_metric("shapegate_ready", 1.0).await;
    let ready = tenants.gate.admin("/readyz").await;
    assert_eq!((ready.status.as_u16(), ready.json()["missing"].clone()), (200, json!([])));
    assert_eq!(ready.json()["degraded"], json!([format!("Electric acme-db ({url}): is unreachable")]));
    assert_eq!(tenants.gate.metric(&metric("globex-db", &tenants.electrics["globex"].url())).await, 1.0);
    assert_eq!(tenants.gate.get(ITEMS, &tenants.token(&json!({ "tenant": "globex" }))).await.status, 200);
    // With a single server, an unreachable Electric gives 502.
    let answer = tenants.gate.get(ITEMS, &tenants.token(&json!({ "tenant": "acme" }))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_rotation_under_load_causes_no_errors() {
    let setup = Setup { upstream: "secret_next = { env = 'ELECTRIC_SECRET_NEXT' }\n".to_owned(), ..Setup::default() };
    let gate = &Gate::with(setup).await;
    let token = &gate.token(&["org_1"]);
    let in_use = &format!("shapegate_upstream_secret{{server=\"{}\",upstream=\"default\"}}", gate.electric.url());
    let first = gate.get(&tasks(1, "offset=-1"), token).await;
    let handle = first.header("electric-handle");
    assert_eq!(gate.metric(in_use).await, 1.0);
    // From one secret to the other, and back.
    for (round, (secret, place)) in [(NEXT_SECRET, 2.0), (SECRET, 1.0)].into_iter().enumerate() {
        let asking: Vec<_> = (0..8)
            .map(|client| {
                let requests: Vec<_> = (0..25)
                    .map(|number| {
                        // Each position is a request to Electric of its own.
                        let position = (round * 8 + client) * 25 + number + 1;
                        let rest = format!("offset=0_{position}&handle={handle}");
                        gate.request(&tasks(1, &rest), Some(token))
                    })
                    .collect();
                tokio::spawn(async move {
                    for request in requests {
                        let answer = Answer::of(request.send().await.unwrap()).await;
                        assert_eq!(answer.status, 200, "{answer:?}");
                    }
                })
            })
            .collect();
        let before = gate.electric.request_count();
        gate.electric.wait_for_requests(before + 20).await;
        gate.electric.set_secret(secret);
        for asking in asking {
            asking.await.unwrap();
        }
        let last = gate.get(&tasks(1, &format!("offset=-1&handle={round}-last")), token).await;
        assert_eq!(last.status, 200);
        assert_eq!(gate.metric(in_use).await, place);
        // The secret is remembered: the next request needs one attempt.
        let before = gate.electric.request_count();
        assert_eq!(gate.get(&tasks(1, &format!("offset=-1&handle={round}-more")), token).await.status, 200);
        assert_eq!(gate.electric.request_count(), before + 1);
    }
    // A third secret matches neither, which the operator must fix.
    gate.electric.set_secret("another");
    let refused = gate.get(&tasks(1, "offset=-1&handle=refused"), token).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (502, "upstream_refused"));
    assert!(!refused.text().contains(SECRET) && !refused.text().contains(NEXT_SECRET));
    assert_eq!(gate.metric(in_use).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_gets_the_secret_that_it_accepts() {
    // One of the servers has been restarted with the next secret before shapegate starts.
    let anew = start_electric(Options { secret: NEXT_SECRET.to_owned(), ..quick() }).await;
    let upstream = "secret_next = { env = 'ELECTRIC_SECRET_NEXT' }\n".to_owned();
    let setup = Setup { upstream, electric_urls: vec![anew.url()], tune: patient, ..Setup::default() };
    let gate = Gate::with(setup).await;
    let token = token(&gate);
    for organization in 0..ORGANIZATIONS {
        assert_eq!(gate.get(&tasks(organization, "offset=-1"), &token).await.status, 200);
    }
    for (electric, place) in [(&gate.electric, 1.0), (&anew, 2.0)] {
        assert!(!asked(electric).is_empty());
        until_server(&gate, "shapegate_upstream_secret", &electric.url(), place).await;
    }
    // Rejected once, and never again.
    assert_eq!(anew.request_count(), asked(&anew).len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_next_secret_a_401_is_not_retried() {
    let gate = Gate::start().await;
    gate.electric.set_secret(NEXT_SECRET);
    let refused = gate.get(&tasks(1, "offset=-1"), &gate.token(&["org_1"])).await;
    assert_eq!((refused.status.as_u16(), gate.electric.request_count()), (502, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn electric_over_tls_is_trusted_by_the_configured_ca_only() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let electric = start_electric(quick()).await;
    let front = TlsFront::start(&certificate, electric.addr()).await;
    for (ca, trusted) in [(Some(certificate.cert()), true), (Some(other.cert()), false), (None, false)] {
        let upstream = ca.map(|ca| format!("ca = {ca:?}\n")).unwrap_or_default();
        let gate = Gate::with(Setup { electric_url: Some(front.url.clone()), upstream, ..Setup::default() }).await;
        let token = gate.token(&["org_1"]);
        let answer = gate.get(&tasks(1, "offset=-1"), &token).await;
        let ready = gate.admin("/readyz").await;
        if trusted {
            assert_eq!((answer.status.as_u16(), ready.status.as_u16()), (200, 200), "{}", ready.text());
            // On the same connection.
            assert_eq!(gate.get(&tasks(1, "offset=-1&handle=1"), &token).await.status, 200);
        } else {
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_unreachable"));
            assert_eq!(ready.json()["missing"], json!(["Electric: is unreachable"]));
        }
    }
    assert_eq!(electric.request_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_names_a_wrong_secret_until_electric_accepts_it() {
    let gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    gate.until_metric("shapegate_ready", 1.0).await;
    gate.electric.set_secret("another");
    let target = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    assert_eq!(gate.get(target, &token).await.status, 502);
    gate.until_metric("shapegate_ready", 0.0).await;
    let unready = gate.admin("/readyz").await;
    assert_eq!(unready.json()["missing"], serde_json::json!(["Electric: rejects upstream.secret"]));
    // No client has to ask before it is ready again.
    gate.electric.set_secret(SECRET);
    gate.until_metric("shapegate_ready", 1.0).await;
    assert_eq!(gate.get(target, &token).await.status, 200);
}
