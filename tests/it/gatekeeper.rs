//! The gatekeeper over HTTP: what it mints, and every way to misuse a shape token (docs/security.md, G1 to G4).

mod budgets;
mod columns;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shapegate::config::{Config, Environment};

use crate::harness::{AUDIENCE, Answer, GATEKEEPER_SECRET, Gate, RULES, SECRET, Setup, with_defaults};

const GATEKEEPER: &str = r#"
[gatekeeper]
issuer = "https://shapes.test"
audience = "https://app.test"
hs256 = { env = "GATEKEEPER_SECRET" }
public_url = "https://sync.test/v1/shape"
"#;

/// Columns and two values, so that each part of a definition can be forged.
const RULE: &str = r#"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }} AND "title" <> {{ claims.sub }}'
columns = ["id", "organization_id", "title"]

[[shape]]
path = "/api/items"
table = "items"
where = "none"
"#;

async fn start() -> Gate {
    let gate = Gate::with(Setup { rules: format!("{RULE}{GATEKEEPER}"), ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "mine");
    gate.insert_task(2, "org_2", "foreign");
    gate
}

async fn post(gate: &Gate, target: &str, token: Option<&str>) -> Answer {
    let request = gate.client().post(format!("{}{target}", gate.url));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    Answer::of(request.send().await.unwrap()).await
}

/// Returns the minted token, without the scheme.
fn bearer(minted: &Answer) -> String {
    assert_eq!(minted.status, 200, "{}", minted.text());
    minted.json()["headers"]["Authorization"].as_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

async fn shape_token(gate: &Gate) -> String {
    bearer(&post(gate, "/gatekeeper/tasks?organizationId=org_1", Some(&gate.token(&["org_1"]))).await)
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Signs a token with HS256, as a holder of the secret could.
fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str, case: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{case}: {}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store", "{case}");
    assert_eq!(answer.header("access-control-allow-origin"), "*", "{case}");
}

/// The parts of the query that repeat the definition of [`shape_token`]. Tests replace them one by one.
const WHERE: &str = "where=%22organization_id%22+%3D+%241+AND+%22title%22+%3C%3E+%242";
const PARAMS: &str = "params%5B1%5D=org_1&params%5B2%5D=user-1";
const COLUMNS: &str = "columns=id%2Corganization_id%2Ctitle";

fn repeated() -> String {
    format!("/v1/shape?table=tasks&{WHERE}&{PARAMS}&{COLUMNS}&offset=-1")
}

#[tokio::test(flavor = "multi_thread")]
async fn mints_the_shape_that_the_rule_allows() {
    let gate = start().await;
    let minted = post(&gate, "/gatekeeper/tasks?organizationId=org_1&utm=x", Some(&gate.token(&["org_1"]))).await;
    let token = bearer(&minted);
    assert_eq!(minted.header("cache-control"), "no-store");
    assert_eq!(minted.header("access-control-allow-origin"), "*");
    let where_ = r#""organization_id" = $1 AND "title" <> $2"#;
    let columns = json!(["id", "organization_id", "title"]);
    let expected = json!({
        "url": "https://sync.test/v1/shape",
        "headers": { "Authorization": format!("Bearer {token}") },
        "table": "tasks",
        "where": where_,
        "columns": columns,
        "params": { "table": "tasks", "where": where_, "columns": columns, "params": { "1": "org_1", "2": "user-1" } },
    });
    assert_eq!(minted.json(), expected);
    let claims = claims(&token);
    let shape = json!({
        "namespace": null, "table": "tasks", "where": where_, "params": { "1": "org_1", "2": "user-1" },
        "columns": columns, "queryable_columns": columns, "replica": null, "log": null,
    });
    assert_eq!(claims["shape"], shape);
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("https://shapes.test"), &json!("user-1")));
    // The token expires with the user's token, which is valid for an hour.
    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert!((3_590..=3_600).contains(&lifetime), "{lifetime}");
    assert_eq!(gate.electric.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_repeats_the_definition_is_served() {
    let gate = start().await;
    let token = shape_token(&gate).await;
    let where_ = "where=%22organization_id%22%20=%20$1%20AND%20%22title%22%20%3C%3E%20$2";
    for target in [
        repeated(),
        format!("/v1/shape?offset=-1&{COLUMNS}&{PARAMS}&{WHERE}&table=tasks"),
        format!("/v1/shape?table=public.tasks&{where_}&params[2]=user-1&params[1]=org_1&{COLUMNS}&offset=-1"),
        format!("/v1/shape?table=%22public%22.%22tasks%22&{WHERE}&{PARAMS}&{COLUMNS}&offset=-1"),
        format!("/v1/shape?table=TASKS&{WHERE}&{PARAMS}&columns=%22title%22,id,organization_id&offset=-1"),
        format!("{}&replica=default&log=full&queryable_columns=title,id,organization_id", repeated()),
        format!("{}&organizationId=org_2&utm=x&queryable_columns=&replica=", repeated()),
    ] {
        let answer = gate.get(&target, &token).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.rows("title"), ["mine"], "{target}");
    }
    // Electric gets the same bytes as for a user's own token, so that both share a response, and it gets no token.
    let direct = gate.get("/v1/shape?table=tasks&organizationId=org_1&offset=-1", &gate.token(&["org_1"])).await;
    assert_eq!(direct.status, 200);
    for request in gate.electric.requests() {
        let names = request.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
        assert!(names.into_iter().all(|name| name != "authorization") && !request.target.contains(&token));
    }
    assert!(gate.electric.request_count() <= 2, "{}", gate.electric.request_count()); // with `log=full` and without
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn request_that_differs_from_the_definition_is_rejected() {
    // docs/security.md, G1, G2, Q2 to Q5, Q13
    let gate = start().await;
    let token = shape_token(&gate).await;
    let base = repeated();
    let without = |part: &str| base.replace(&format!("&{part}"), "");
    let with = |from: &str, to: &str| base.replace(from, to);
    let and = |more: &str| format!("{base}&{more}");
    let forbidden = [
        // Another table, or two.
        with("table=tasks", "table=items"),
        with("table=tasks", "table=auth.tasks"),
        with("table=tasks", "table=%22Tasks%22"),
        with("table=tasks", "table=tasks%20"),
        with("table=tasks&", ""),
        with("table=tasks", "table="),
        and("table=items"),
        and("table=tasks"),
        base.replace("/v1/shape?", "/v1/shape?table=items&"),
        // Another predicate.
        with(WHERE, "where=true"),
        without(WHERE),
        with(WHERE, "where="),
        with(WHERE, &format!("{WHERE}+OR+true")),
        with(WHERE, &format!("{WHERE}+")),
        and("where=true"),
        and(WHERE),
        and("%77here=true"),
        // Another value, or none.
        with("params%5B1%5D=org_1", "params%5B1%5D=org_2"),
        with("org_1&params%5B2%5D=user-1", "user-1&params%5B2%5D=org_1"),
        with("params%5B1%5D=org_1&", ""),
        without("params%5B2%5D=user-1"),
        without(PARAMS),
        and("params[3]=x"),
        and("params[1]=org_1"),
        and("params[1]=org_2"),
        and("params[01]=org_2"),
        and("params[%2B1]=org_2"),
        and("params[0]=org_2"),
        and("params[]=org_2"),
        and("params[x]=org_2"),
        and("params=%7B%221%22:%22org_2%22%7D"),
        and("params[1"),
        with(PARAMS, "params=%7B%221%22:%22org_1%22,%222%22:%22user-1%22%7D"),
        // Other columns.
        without(COLUMNS),
        with(COLUMNS, "columns=id,title"),
        with(COLUMNS, "columns=id,organization_id,title,secret"),
        with(COLUMNS, "columns=id,organization_id,title,title"),
        with(COLUMNS, "columns=id,organization_id,%22Title%22"),
        with(COLUMNS, "columns=id,organization_id,title,"),
        with(COLUMNS, "columns=*"),
        and(COLUMNS),
        and("columns=secret"),
        and("queryable_columns=id,organization_id,title,secret"),
        and("queryable_columns=id"),
        // Another mode.
        and("replica=full"),
        and("replica=x"),
        and("replica=default&replica=full"),
        and("log=changes_only"),
        // No definition, as in a request with a user's token.
        "/v1/shape?table=tasks&organizationId=org_1&offset=-1".to_owned(),
        // The path of another rule.
        "/api/items?offset=-1".to_owned(),
    ];
    for target in &forbidden {
        assert_refused(&gate.get(target, &token).await, 403, "forbidden", target);
    }
    for more in [
        "TABLE=items",
        "table[]=items",
        "Where=true",
        "where[]=true",
        "columns[]=secret",
        "PARAMS[1]=x",
        "subset__where=true",
        "subset[where]=true",
        "order_by=id",
        "secret=x",
        "source_id=x",
        "shape_definition=x",
        "offset=now",
        "log=full&log=changes_only",
        "live=true",
        "where=%ff",
    ] {
        assert_refused(&gate.get(&and(more), &token).await, 400, "invalid_request", more);
    }
    assert_refused(&gate.get(&base.replace("/v1/shape", "/v1/shape/"), &token).await, 404, "not_found", "path");
    assert_eq!(gate.electric.request_count(), 0);
    assert_eq!(gate.get(&base, &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_another_kind_are_rejected() {
    // docs/security.md, G4, T1, T9, T14
    let gate = start().await;
    let minted = shape_token(&gate).await;
    let good = claims(&minted);
    let header = json!({ "alg": "HS256", "typ": "shape+jwt" });
    let changed = |changes: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    };
    let twin = sign(&header, &good, GATEKEEPER_SECRET);
    assert_eq!(gate.get(&repeated(), &twin).await.status, 200);
    let asked = gate.electric.request_count();
    for (case, token) in [
        ("type of a user's token", sign(&json!({ "alg": "HS256", "typ": "JWT" }), &good, GATEKEEPER_SECRET)),
        ("no type", sign(&json!({ "alg": "HS256" }), &good, GATEKEEPER_SECRET)),
        ("no algorithm", sign(&json!({ "alg": "none", "typ": "shape+jwt" }), &good, GATEKEEPER_SECRET)),
        ("another secret", sign(&header, &good, "another-secret-of-thirty-two-bytes-or-so")),
        ("another audience", sign(&header, &changed(json!({ "aud": "x" })), GATEKEEPER_SECRET)),
        ("no shape", sign(&header, &changed(json!({ "shape": null })), GATEKEEPER_SECRET)),
        ("no rule", sign(&header, &changed(json!({ "rule": null })), GATEKEEPER_SECRET)),
        ("a shape that says more", {
            let mut shape = good["shape"].clone();
            shape["limit"] = json!(1);
            sign(&header, &changed(json!({ "shape": shape })), GATEKEEPER_SECRET)
        }),
        ("a user's issuer under the gatekeeper's name", {
            gate.issuer.keys.sign(&with_defaults("https://shapes.test", &good))
        }),
        ("the gatekeeper's secret under a user's issuer", {
            sign(
                &header,
                &with_defaults(gate.issuer.url(), &json!({ "organizationIds": ["org_1"] })),
                GATEKEEPER_SECRET,
            )
        }),
    ] {
        assert_refused(&gate.get(&repeated(), &token).await, 401, "token_invalid", case);
    }
    let expired = sign(&header, &changed(json!({ "iat": 1_000, "exp": 2_000 })), GATEKEEPER_SECRET);
    assert_refused(&gate.get(&repeated(), &expired).await, 401, "token_expired", "expired");
    let other_rule = sign(&header, &changed(json!({ "rule": "0" })), GATEKEEPER_SECRET);
    assert_refused(&gate.get(&repeated(), &other_rule).await, 403, "forbidden", "another rule");
    assert_eq!(gate.electric.request_count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_claim_of_a_user_token_is_ignored() {
    let gate = start().await;
    let shape = json!({ "namespace": null, "table": "tasks", "where": null, "columns": null });
    let token = gate.issuer.token(&json!({ "sub": "u", "organizationIds": ["org_1"], "shape": shape, "rule": "x" }));
    assert_refused(&gate.get("/v1/shape?table=tasks&offset=-1", &token).await, 403, "forbidden", "no filter");
    assert_refused(&gate.get(&repeated(), &token).await, 403, "forbidden", "a definition");
    let repeated = format!("{}&organizationId=org_1", repeated());
    assert_refused(&gate.get(&repeated, &token).await, 400, "invalid_request", "a definition and an organization");
    assert_eq!(gate.electric.request_count(), 0);
    let answer = gate.get("/v1/shape?table=tasks&organizationId=org_1&offset=-1", &token).await;
    assert_eq!((answer.status.as_u16(), answer.rows("title")), (200, vec!["mine".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_claim_is_honoured_if_the_issuer_enables_it() {
    let gate = Gate::with(Setup { issuer: "shape_claim = true".to_owned(), ..Setup::default() }).await;
    gate.insert_task(1, "org_1", "mine");
    gate.insert_task(2, "org_2", "foreign");
    let shape = json!({ "namespace": null, "table": "tasks", "where": "organization_id = 'org_2'", "columns": null });
    let token = gate.issuer.token(&json!({ "sub": "u", "shape": shape }));
    let asked = "/v1/shape?table=tasks&where=organization_id%20=%20'org_2'&offset=-1";
    let answer = gate.get(asked, &token).await;
    assert_eq!((answer.status.as_u16(), answer.rows("title")), (200, vec!["foreign".to_owned()]));
    for (target, status, code) in [
        ("/v1/shape?table=tasks&offset=-1".to_owned(), 403, "forbidden"),
        (format!("{asked}&params[1]=x"), 403, "forbidden"),
        (format!("{asked}&replica=full"), 403, "forbidden"),
        (format!("{asked}&subset__where=true"), 400, "invalid_request"),
    ] {
        assert_refused(&gate.get(&target, &token).await, status, code, &target);
    }
    for shape in [json!(null), json!({}), json!([]), json!({ "table": null }), json!({ "table": "tasks", "x": 1 })] {
        let token = gate.issuer.token(&json!({ "sub": "u", "organizationIds": ["org_1"], "shape": shape }));
        assert_refused(&gate.get(asked, &token).await, 401, "token_invalid", &shape.to_string());
    }
    // Tokens of the same issuer without a shape claim are judged by the rules.
    let user = gate.token(&["org_1"]);
    assert_eq!(gate.get("/v1/shape?table=tasks&organizationId=org_1&offset=-1", &user).await.status, 200);
    let filtered = format!("{asked}&organizationId=org_1");
    assert_refused(&gate.get(&filtered, &user).await, 400, "invalid_request", "a user's filter");
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_token_allows_neither_filters_nor_subsets() {
    let opened = RULES.replacen("where =", "subset = true\nclient_where = true\nwhere =", 1);
    let gate = Gate::with(Setup { rules: opened, issuer: "shape_claim = true".to_owned(), ..Setup::default() }).await;
    let shape = json!({ "namespace": null, "table": "tasks", "where": "organization_id = 'org_1'", "columns": null });
    let scoped = gate.issuer.token(&json!({ "sub": "u", "shape": shape }));
    let target = "/v1/shape?table=tasks&where=organization_id%20=%20'org_1'&offset=-1";
    let post = |token: &str, target: &str| {
        let request = gate.client().post(format!("{}{target}", gate.url)).bearer_auth(token);
        request.header("content-type", "application/json").body(r#"{"where":"title = 'a'"}"#).send()
    };
    let posted = Answer::of(post(&scoped, target).await.unwrap()).await;
    assert_refused(&posted, 405, "method_not_allowed", "a subset");
    let user = gate.token(&["org_1"]);
    let own = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let posted = Answer::of(post(&user, own).await.unwrap()).await;
    assert_eq!(posted.status, 200, "the rule enables it: {}", posted.text());
    assert_eq!(gate.get(target, &scoped).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn gatekeeper_path_rejects_bad_requests_like_other_paths() {
    let gate = start().await;
    let user = gate.token(&["org_1"]);
    let mint = "/gatekeeper/tasks?organizationId=org_1";
    assert_refused(&post(&gate, mint, None).await, 401, "token_missing", "no token");
    assert_refused(&post(&gate, mint, Some("x")).await, 401, "token_invalid", "no good token");
    assert_refused(&post(&gate, mint, Some(&gate.token(&["org_2"]))).await, 403, "forbidden", "another's");
    assert_refused(&post(&gate, "/gatekeeper/tasks", Some(&user)).await, 403, "forbidden", "no organization");
    let shape = shape_token(&gate).await;
    assert_refused(&post(&gate, mint, Some(&shape)).await, 403, "forbidden", "a shape token");
    for table in ["nothing", "auth.tasks", "%22Tasks%22", "items", "Tasks%20"] {
        let answer = post(&gate, &format!("/gatekeeper/{table}?organizationId=org_1"), Some(&user)).await;
        let expected = if table == "Tasks%20" { (400, "invalid_request") } else { (404, "shape_not_found") };
        assert_refused(&answer, expected.0, expected.1, table);
    }
    for path in [
        "/gatekeeper",
        "/gatekeeper/",
        "/gatekeeper/tasks/",
        "/gatekeeper//tasks",
        "/Gatekeeper/tasks",
        "/gatekeeper/tasks&organizationId=org_1",
    ] {
        assert_refused(&post(&gate, path, Some(&user)).await, 404, "not_found", path);
        assert_refused(&post(&gate, path, None).await, 404, "not_found", path);
    }
    // With a shared secret there is no public key.
    assert_refused(&gate.get("/gatekeeper/jwks.json", &user).await, 404, "not_found", "jwks");
    for more in ["table=items", "where=true", "offset=-1", "replica=full", "organizationId=org_2", "secret=x", "x=%zz"]
    {
        let answer = post(&gate, &format!("{mint}&{more}"), Some(&user)).await;
        assert_refused(&answer, 400, "invalid_request", more);
    }
    let get = gate.get(mint, &user).await;
    assert_refused(&get, 405, "method_not_allowed", "GET");
    assert_eq!(get.header("allow"), "POST, OPTIONS");
    let body = gate.client().post(format!("{}{mint}", gate.url)).bearer_auth(&user).body("{}").send().await.unwrap();
    assert_refused(&Answer::of(body).await, 413, "content_too_large", "a body");
    for (table, methods) in [("/gatekeeper/tasks", "POST, OPTIONS"), ("/v1/shape", "GET, OPTIONS")] {
        let preflight = gate.client().request(http::Method::OPTIONS, format!("{}{table}", gate.url));
        let preflight = preflight.header("origin", "https://app.test").header("access-control-request-method", "POST");
        let preflight = Answer::of(preflight.send().await.unwrap()).await;
        assert_eq!((preflight.status.as_u16(), preflight.header("access-control-allow-methods")), (204, methods));
    }
    assert_eq!(gate.electric.request_count(), 0);
    // The client's choice of the log is part of the definition, and returned to it.
    let minted = post(&gate, &format!("{mint}&log=changes_only"), Some(&user)).await;
    assert_eq!(minted.json()["log"], "changes_only");
    let token = bearer(&minted);
    assert_refused(&gate.get(&repeated(), &token).await, 403, "forbidden", "the whole log");
    assert_eq!(gate.get(&format!("{}&log=changes_only", repeated()), &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_revokes_tokens_of_removed_and_changed_rules() {
    let gate = start().await;
    let token = shape_token(&gate).await;
    let policy = |rules: &str| {
        let setup = Setup { rules: rules.to_owned(), ..Setup::default() };
        setup.config("http://127.0.0.1:3000", "http://127.0.0.1:3001").policy
    };
    gate.policy.replace(policy(&RULE.replace("[\"id\", ", "[\"id\", \"secret\", ")));
    assert_refused(&gate.get(&repeated(), &token).await, 403, "forbidden", "changed");
    gate.policy.replace(policy("[[shape]]\ntable = \"items\"\nwhere = \"none\"\n"));
    assert_refused(&gate.get(&repeated(), &token).await, 404, "shape_not_found", "gone");
    assert_eq!(gate.electric.request_count(), 0);
    gate.policy.replace(policy(RULE));
    assert_eq!(gate.get(&repeated(), &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn public_rule_mints_without_a_user_token() {
    let rules = "[[shape]]\ntable = \"items\"\nwhere = '\"user_id\" = {{ query.user }}'\npublic = true\ndanger_client_chosen = ['user']\nreplica = \"full\"\n";
    let gate = Gate::with(Setup { rules: format!("{rules}{GATEKEEPER}"), ..Setup::default() }).await;
    let minted = post(&gate, "/gatekeeper/items?user=u_1", None).await;
    let token = bearer(&minted);
    assert_eq!(minted.json()["params"]["replica"], "full");
    assert_eq!(claims(&token).get("sub"), None);
    let asked = "/v1/shape?table=items&where=%22user_id%22+%3D+%241&params[1]=u_1&offset=-1";
    assert_refused(&gate.get(asked, &token).await, 403, "forbidden", "another replica");
    assert_eq!(gate.get(&format!("{asked}&replica=full"), &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_pair_signs_and_its_public_key_is_served() {
    for (algorithm, name) in [(&rcgen::PKCS_ED25519, "EdDSA"), (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        std::fs::write(&file, rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()).unwrap();
        let key = format!("signing_key = {{ file = {file:?} }}");
        let gatekeeper = GATEKEEPER.replace("hs256 = { env = \"GATEKEEPER_SECRET\" }", &key);
        let gate = Gate::with(Setup { rules: format!("{RULE}{gatekeeper}"), ..Setup::default() }).await;
        let keys = Answer::of(gate.request("/gatekeeper/jwks.json", None).send().await.unwrap()).await;
        let key = &keys.json()["keys"][0];
        assert_eq!((&key["alg"], &key["use"], key.get("d")), (&json!(name), &json!("sig"), None));
        let token = shape_token(&gate).await;
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header, json!({ "alg": name, "typ": "shape+jwt", "kid": key["kid"] }));
        assert_eq!(gate.get(&repeated(), &token).await.status, 200);
        // docs/security.md, T2: the public key must not work as an HS256 secret
        let public = keys.text();
        let forged = sign(&json!({ "alg": "HS256", "typ": "shape+jwt", "kid": key["kid"] }), &claims(&token), &public);
        assert_refused(&gate.get(&repeated(), &forged).await, 401, "token_invalid", "public key as secret");
    }
}

#[test]
fn secret_is_not_in_debug_output_and_must_differ_from_issuer_secrets() {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://e'\nsecret = {{ env = 'ELECTRIC_SECRET' }}\n\
         [[issuer]]\nissuer = 'a'\naudience = '{AUDIENCE}'\nhs256 = {{ env = 'USER_SECRET' }}\n{RULE}{GATEKEEPER}"
    );
    let environment = |user: &str| {
        let secrets = [("ELECTRIC_SECRET", SECRET), ("GATEKEEPER_SECRET", GATEKEEPER_SECRET), ("USER_SECRET", user)];
        Environment::from(secrets)
    };
    let config =
        Config::parse(&text, "x.toml".as_ref(), &environment("a-user-secret-of-thirty-two-bytes-or-so")).unwrap();
    assert!(!format!("{config:?}").contains(GATEKEEPER_SECRET));
    let same = Config::parse(&text, "x.toml".as_ref(), &environment(GATEKEEPER_SECRET)).unwrap_err().to_string();
    assert!(same.contains("gatekeeper.hs256: is also the secret of an [[issuer]]"), "{same}");
}
