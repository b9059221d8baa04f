//! Reasons that come from what other services say, and from settings of issuers that exclude those of the other table.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shapegate::demo::http::{End, Reply, Server, Serving};
use shapegate::demo::issuer::Issuer;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::TASKS;
use super::case::Case;
use crate::harness::pdp::{self, Pdp};
use crate::harness::{IssuerServer, with_defaults};

const CONFIG: &str = r#"
[upstream]
url = "ELECTRIC"
secret = { env = "ELECTRIC_SECRET" }
[upstreams.deaf]
url = "DEAF"
secret = { env = "ELECTRIC_SECRET" }
connect_timeout = "100ms"
[[issuer]]
issuer = "ISSUER"
audience = "https://app.test"
algorithms = ["EdDSA"]
jwks = { url = "ISSUER/jwks" }
cookie = "session"
[[issuer]]
issuer = "https://asked.test"
audience = "https://app.test"
[issuer.introspection]
url = "ASKED/introspect"
client_id = "shapegate"
client_secret = { env = "GATEKEEPER_SECRET" }
timeout = "5s"
[[issuer]]
issuer = "https://strict.test"
audience = "https://app.test"
require = "claims.azp == 'https://app.test'"
max_lifetime = "1h"
algorithms = ["EdDSA"]
jwks = { file = "one.json" }
[[issuer]]
issuer = "https://many.test"
audience = "https://app.test"
algorithms = ["EdDSA"]
jwks = { file = "both.json" }
[revocation]
file = "revoked.json"
[cors]
origins = ["https://app.test"]
[decisions.pdp]
url = "PDP"
timeout = "5s"
[[shape]]
table = "tasks"
where = '"organization_id" = {{ query.organizationId }}'
allow = "query.organizationId in claims.organizationIds"
[[shape]]
table = "items"
where = "none"
[shape.evaluate]
by = "pdp"
subject = { type = "user", id = "{{ claims.name }}" }
action = "read"
resource = { type = "table", id = "items" }
[[shape]]
path = "/deaf"
table = "items"
where = "none"
upstream = "deaf"
[limits]
trusted_proxies = ["127.0.0.1"]
"#;

/// The services that the configuration names.
pub(super) struct Services {
    issuer: IssuerServer,
    /// Signs the tokens of the issuer with requirements.
    strict: Issuer,
    pdp: Pdp,
    asked: SocketAddr,
    _asking: Serving,
    deaf: Deaf,
}

impl Services {
    pub(super) async fn start() -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let asked = server.local_addr().unwrap();
        let asking = server.serve(|request| async move {
            let is_down = String::from_utf8_lossy(&request.body).contains("down");
            if is_down { Reply::json(503, "{}") } else { Reply::json(200, r#"{"active":false}"#) }
        });
        let pdp = Pdp::start().await;
        pdp.decides(|_, body| match body["subject"]["id"].as_str() {
            Some("down") => pdp::allow().with_end(End::Reset),
            _ => pdp::deny(),
        });
        let strict = Issuer::new("https://strict.test").unwrap();
        Self { issuer: IssuerServer::start().await, strict, pdp, asked, _asking: asking, deaf: Deaf::start().await }
    }

    /// The configuration, and the files that it names.
    pub(super) fn config(&self) -> (String, Vec<(&'static str, String)>) {
        let config = CONFIG.replace("ISSUER", self.issuer.url()).replace("ASKED", &format!("http://{}", self.asked));
        let config = config.replace("PDP", self.pdp.url()).replace("DEAF", &format!("http://{}", self.deaf.address));
        let one = self.strict.jwks();
        self.strict.rotate().unwrap();
        let both = json!({ "keys": [one["keys"][0], self.strict.jwks()["keys"][0]] });
        let revoked = json!({ "revocations": [{ "sub": "gone" }] });
        let files = [("one.json", self.strict.jwks()), ("both.json", both), ("revoked.json", revoked)];
        (config, files.map(|(name, json)| (name, json.to_string())).into())
    }

    pub(super) fn cases(&self) -> Vec<Case> {
        let get = |reason, target: &str, token: String| Case::get(reason, target, token);
        let token = |claims: Value| self.issuer.token(&claims);
        let items = "/v1/shape?table=items&offset=-1";
        let strict = |more: Value| {
            let mut claims = with_defaults(self.strict.name(), &json!({ "azp": "https://app.test" }));
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            self.strict.sign(&claims)
        };
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let claims = with_defaults("https://many.test", &json!({}));
        let of_any_key = format!("{}.{}.{}", part(&json!({ "alg": "EdDSA" })), part(&claims), "A".repeat(86));
        let cookie = format!("Cookie: session={}\r\n", token(json!({ "sub": "other" })));
        let year = json!({ "exp": claims["exp"].as_u64().unwrap() + 365 * 86_400 });
        vec![
            get("require", TASKS, strict(json!({ "azp": "https://other.test" }))),
            get("lifetime", TASKS, strict(year)),
            get("ambiguous_key", TASKS, of_any_key),
            get("revoked", TASKS, token(json!({ "sub": "gone" }))),
            get("inactive", TASKS, "opaque-ended".to_owned()),
            get("auth_unavailable", TASKS, "opaque-down".to_owned()),
            get("token_conflict", TASKS, token(json!({ "sub": "one" }))).with(cookie),
            get("decision_denied", items, token(json!({ "name": "eve" }))),
            get("decision_unavailable", items, token(json!({ "name": "down" }))),
            get("question_unbound", items, token(json!({}))),
            get("electric_timeout", "/deaf?offset=-1", token(json!({}))).with(""),
        ]
    }
}

/// A socket that accepts no connection: its queue is full.
struct Deaf {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        // The queue holds a few more than it was asked for.
        while let Ok(stream) =
            tokio::time::timeout(std::time::Duration::from_secs(1), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        Self { address, _listener: listener, _queued: queued }
    }
}
