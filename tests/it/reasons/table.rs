//! Requests that one client alone can send, each with the reason why it is rejected.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shapegate::clock::{Clock, SystemClock};
use shapegate::demo::http::Reply;
use shapegate::demo::issuer::Issuer;

use super::TASKS;
use super::case::Case;
use crate::harness::{IssuerServer, with_defaults};

const TWO: &str = "https://two.test";
const DOWN: &str = "https://down.test";

/// The configuration, with words for what each test has of its own.
const CONFIG: &str = r#"
[upstream]
url = "ELECTRIC"
secret = { env = "ELECTRIC_SECRET" }
[upstreams.gone]
url = "http://127.0.0.1:1"
secret = { env = "ELECTRIC_SECRET" }
[upstreams.acme]
url = "ELECTRIC"
secret = { env = "ELECTRIC_SECRET" }
[[issuer]]
issuer = "ISSUER"
audience = "https://app.test"
algorithms = ["EdDSA", "ES256"]
jwks = { url = "ISSUER/jwks" }
[[issuer]]
issuer = "https://two.test"
audience = "https://app.test"
algorithms = ["EdDSA"]
shape_claim = true
jwks = { file = "two.json" }
[[issuer]]
issuer = "https://down.test"
audience = "https://app.test"
algorithms = ["EdDSA"]
jwks = { url = "http://127.0.0.1:1/jwks" }
[gatekeeper]
issuer = "https://shapes.test"
audience = "https://app.test"
hs256 = { env = "GATEKEEPER_SECRET" }
public_url = "https://sync.test/v1/shape"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
[[shape]]
table = "items"
columns = ["id", "title"]
where = '"user_id" = {{ claims.sub }}'
[[shape]]
table = "notes"
where = "none"
upstream = { claim = "claims.tenant", map = { acme = "acme" } }
[[shape]]
path = "/gone"
table = "items"
where = "none"
upstream = "gone"
[[shape]]
table = "open"
where = "none"
subset = true
client_where = true
[limits]
trusted_proxies = ["127.0.0.1"]
rate_per_subject = 2
"#;

/// The issuers whose tokens the configuration accepts.
pub(super) struct Scene {
    pub(super) issuer: IssuerServer,
    two: Issuer,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self { issuer: IssuerServer::start().await, two: Issuer::new(TWO).unwrap() }
    }

    /// The configuration, and the files that it names.
    pub(super) fn config(&self) -> (String, [(&'static str, String); 1]) {
        (CONFIG.replace("ISSUER", self.issuer.url()), [("two.json", self.two.jwks().to_string())])
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let mut all = json!({ "organizationIds": ["org_1"] });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.issuer.token(&all)
    }

    /// Returns a token that no key has signed.
    fn unsigned(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}.{}", part(header), part(&with_defaults(self.issuer.url(), claims)), "A".repeat(86))
    }

    pub(super) fn rules(&self) -> Vec<Case> {
        let shape = with_defaults(TWO, &json!({ "shape": { "table": "tasks" } }));
        let shape = self.two.sign(&shape);
        vec![
            Case::get("allow_false", TASKS.replace("org_1", "org_3"), self.token(&json!({ "sub": "a" }))),
            Case::get("allow_error", TASKS, self.token(&json!({ "sub": "b", "organizationIds": null }))),
            Case::get("value_unbound", "/v1/shape?table=items&offset=-1", self.token(&json!({}))),
            Case::get(
                "upstream_unbound",
                "/v1/shape?table=notes&offset=-1",
                self.token(&json!({ "sub": "c", "tenant": "other" })),
            ),
            Case::get("shape_differs", TASKS.replace("tasks", "items"), shape.clone()),
            Case { method: "POST", ..Case::get("shape_token", "/gatekeeper/tasks?organizationId=org_1", shape) },
            Case::get("table_unknown", "/v1/shape?table=other&offset=-1", self.token(&json!({ "sub": "d" }))),
            Case::get("path_unknown", "/nothing", self.token(&json!({ "sub": "e" }))),
        ]
    }

    pub(super) fn claims(&self) -> Vec<Case> {
        let now = SystemClock.now().as_secs();
        let with = |reason, claims: Value| Case::get(reason, TASKS, self.token(&claims));
        let two = with_defaults(TWO, &json!({ "shape": 1 }));
        vec![
            with("audience", json!({ "aud": ["x"] })),
            with("issuer", json!({ "iss": "https://other.test" })),
            with("expired", json!({ "exp": now - 3600 })),
            with("expiry", json!({ "exp": "tomorrow" })),
            with("not_before", json!({ "nbf": now + 3600 })),
            with("issued_at", json!({ "iat": now + 3600 })),
            with("subject", json!({ "sub": 1 })),
            Case::get("shape", TASKS, self.two.sign(&two)),
        ]
    }

    pub(super) fn headers(&self) -> Vec<Case> {
        let plain = |header: Value| self.unsigned(&header, &json!({}));
        let with = |reason, header: Value| Case::get(reason, TASKS, plain(header));
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let down = self.unsigned(&json!({ "alg": "EdDSA" }), &json!({ "iss": DOWN }));
        vec![
            with("signature", json!({ "alg": "EdDSA", "kid": "key-1" })),
            with("kid_unknown", json!({ "alg": "EdDSA", "kid": "other" })),
            with("key_id", json!({ "alg": "EdDSA", "kid": 7 })),
            with("algorithm", json!({ "alg": "HS256" })),
            with("algorithm_mismatch", json!({ "alg": "ES256", "kid": "key-1" })),
            with("type", json!({ "alg": "EdDSA", "kid": "key-1", "typ": "x" })),
            with("compressed", json!({ "alg": "EdDSA", "zip": "DEF" })),
            with("critical", json!({ "alg": "EdDSA", "crit": [] })),
            with("encrypted", json!({ "alg": "EdDSA", "enc": "x" })),
            with("nested", json!({ "alg": "EdDSA", "cty": "JWT" })),
            with("unencoded_payload", json!({ "alg": "EdDSA", "b64": false })),
            Case::get("keys_unavailable", TASKS, down),
            Case::get("structure", TASKS, "abc"),
            Case::get("encoding", TASKS, "a.b.c"),
            Case::get("header", TASKS, format!("{}.{}.AA", part("[]"), part("{}"))),
            Case::get("payload", TASKS, format!("{}.{}.AA", part(r#"{"alg":"EdDSA"}"#), part("[]"))),
            Case::get("token_malformed", TASKS, "a b"),
            Case::get("token_too_long", TASKS, "a".repeat(16 * 1024 + 1)),
            Case { token: None, ..Case::get("token_missing", TASKS, "") },
        ]
    }
}

/// Requests that are malformed, too much, or that Electric does not answer.
pub(super) fn requests(scene: &Scene) -> Vec<Case> {
    let token = |claims: &Value| scene.token(claims);
    let get = |reason, target: &str| Case::get(reason, target, token(&json!({ "sub": reason })));
    let open = |reason, more: &str| get(reason, &format!("/v1/shape?table=open&offset=-1&{more}"));
    let many = "*".repeat(3_500);
    let long = token(&json!({ "sub": "long", "organizationIds": [many] }));
    // Each at a position of its own, since an error is remembered.
    let electric = |reason, number: usize, reply| {
        get(reason, &TASKS.replace("offset=-1", &format!("offset=0_{number}&handle=1-1"))).if_electric(reply)
    };
    vec![
        get("client_columns", "/v1/shape?table=items&offset=-1&columns=id,user_id"),
        get("client_replica", &format!("{TASKS}&replica=full")),
        get("client_reserved", &format!("{TASKS}&where=true")),
        open("client_where", "where=id%3B"),
        open("subset", "subset__limit=x"),
        open("body", "").post("[]"),
        open("content_type", "").post("{}").with("Content-Type: text/plain\r\n"),
        get("parameter", "/v1/shape?table=tasks&organizationId=org_1"),
        get("query", &format!("{TASKS}&a=%zz")),
        Case { method: "DELETE", ..get("method", TASKS) },
        Case { body: Some("{}"), ..get("content_too_large", TASKS) },
        get("uri_too_long", &format!("{TASKS}&x={}", "a".repeat(8 * 1024))),
        Case::get("values_too_long", TASKS.replace("org_1", &many), long),
        get("host", TASKS).with("Host: a/b\r\n"),
        get("origin", TASKS).with("Origin: https://a.test\r\nOrigin: https://b.test\r\n"),
        get("expect", TASKS).with("Expect: 100-continue\r\n"),
        get("target", TASKS.replace("/v1", "http://gate.test/v1").as_str()).with(""),
        get("headers_too_large", TASKS).with("X-A: a\r\n".repeat(65)),
        electric("electric_not_ready", 1, || Reply::json(503, "{}")),
        electric("electric_overloaded", 2, || Reply::json(503, "{}").with_header("electric-internal-known-error", "1")),
        electric("electric_refused", 3, || Reply::json(500, "{}")),
        get("electric_unreachable", "/gone?offset=-1").with(""),
        Case { times: 20, explained: false, ..get("rate_per_subject", TASKS) },
    ]
}
