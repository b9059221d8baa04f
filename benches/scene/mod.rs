//! Shared by the benches: three rules, and a principal whose token was verified.

use std::sync::Arc;

use serde_json::{Value, json};
use shapegate::auth::keys::HttpFetch;
use shapegate::auth::{BearerToken, Principal, TokenVerifier};
use shapegate::clock::{Clock, SystemClock};
use shapegate::config::{Config, Environment};
use shapegate::decisions::Services;
use shapegate::demo::issuer::Issuer;
use shapegate::metrics::Metrics;
use shapegate::policy::PolicySet;

const ISSUER: &str = "https://issuer.bench";

pub(crate) struct Scene {
    pub policy: PolicySet,
    issuer: Issuer,
    verifier: TokenVerifier,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::asking("http://127.0.0.1:1")
    }

    /// Builds a scene whose rule for `projects` asks the service at this URL.
    pub(crate) fn asking(pdp: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new(ISSUER).unwrap();
        std::fs::write(folder.path().join("keys.json"), issuer.jwks().to_string()).unwrap();
        let text = format!(
            r#"
[server]
listen = "127.0.0.1:0"
[upstream]
url = "http://127.0.0.1:3000"
danger_no_secret = true
[[issuer]]
issuer = "{ISSUER}"
audience = "bench"
algorithms = ["EdDSA"]
jwks = {{ file = "keys.json" }}
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{{{ query.organizationId }}}}'
[[shape]]
table = "organizations"
where = '"id" IN ({{{{ claims.organizationIds }}}})'
[[shape]]
table = "projects"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{{{ query.organizationId }}}}'
[shape.evaluate]
by = "pdp"
action = "read"
subject = {{ type = "user", id = "{{{{ claims.sub }}}}" }}
resource = {{ type = "organization", id = "{{{{ query.organizationId }}}}" }}
[decisions.pdp]
url = "{pdp}"
cache = "60s"
timeout = "5s"
"#
        );
        let config = Config::parse(&text, &folder.path().join("bench.toml"), &Environment::from([])).unwrap();
        let fetch = Arc::new(HttpFetch::new().unwrap());
        let verifier = TokenVerifier::new(config.issuers, 1_000, Arc::new(SystemClock), None, fetch).unwrap();
        let services = Services::new(config.decisions, &Arc::new(Metrics::new().unwrap())).unwrap();
        Self { policy: config.policy.with_services(services), issuer, verifier }
    }

    /// Returns the principal of a token with these claims.
    pub(crate) fn principal(&self, claims: &Value) -> Arc<Principal> {
        let mut all = json!({ "aud": "bench", "exp": SystemClock.now().as_secs() + 3_600, "sub": "user-1" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let token = BearerToken::new(&self.issuer.sign(&all)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.verifier.verify(&token)).unwrap().principal
    }
}
