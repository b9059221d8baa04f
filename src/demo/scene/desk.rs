//! Serves the demo's page, and does what its buttons say.
//!
//! Every POST needs the header `x-demo`, which a page of another origin cannot send, and every request a `Host` on
//! loopback, which a rebound name does not have.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::crowd::{Crowd, Delivery};
use super::database::Database;
use super::issuer::IssuerServer;
use super::measure::Measure;
use super::settings::{RULE, check};
use super::{Reply, Request, Running};
use crate::clock::{Clock, SystemClock};

/// What the page shows and steers.
pub(super) struct Desk {
    pub(super) database: Arc<Database>,
    pub(super) issuer: Arc<IssuerServer>,
    pub(super) crowd: Crowd,
    pub(super) measure: Measure,
    pub(super) running: Running,
}

/// The files of the page: path, content type, content.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/main.js", "text/javascript; charset=utf-8", include_str!("../page/main.js")),
    ("/electric-client.js", "text/javascript; charset=utf-8", include_str!("../page/electric-client.js")),
    ("/electric-client.LICENSE", "text/plain; charset=utf-8", include_str!("../page/electric-client.LICENSE")),
];

impl Desk {
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Reply {
        if !request.header("host").is_some_and(is_loopback) {
            return problem(403, "the demo answers only on loopback");
        }
        let reply = match (request.method.as_str(), request.path()) {
            ("GET", "/options") => self.options(),
            ("GET", "/state") => self.state().await,
            ("GET", "/live") => self.live_query().await,
            ("GET", "/upstream") => Reply::json(200, json!(self.database.last_request(request.query())).to_string()),
            ("GET", path) => match path.strip_prefix("/token/") {
                Some(organization) => self.token(organization),
                None => file(path),
            },
            ("POST", path) if request.header("x-demo").is_some() => self.act(path, &request).await,
            _ => problem(403, "a POST needs the header x-demo"),
        };
        reply.with_header("cache-control", "no-store")
    }

    async fn act(&self, path: &str, request: &Request) -> Reply {
        match path {
            "/sign" => self.sign(&request.body),
            "/clients" => self.add_clients().await,
            "/clients/remove" => self.remove_clients(),
            "/row" => self.write_row(organization(request)).await,
            "/electric/restart" => self.restart_electric().await,
            "/issuer/restart" => self.restart_issuer().await,
            "/rule/check" => Reply::json(200, check(&self.running.settings, &text(&request.body)).1.to_string()),
            "/rule" => self.apply(&text(&request.body)),
            _ => problem(404, "no such action"),
        }
    }

    fn options(&self) -> Reply {
        let Running { shape_url, admin, .. } = &self.running;
        let options = json!({
            "shapeUrl": shape_url,
            "metricsUrl": format!("http://{admin}/metrics"),
            "ownElectric": !self.database.is_own(),
            "rule": RULE,
        });
        Reply::json(200, options.to_string())
    }

    async fn state(&self) -> Reply {
        let mut state = match self.measure.figures().await {
            Ok(figures) => figures.json(),
            Err(error) => return problem(503, &format!("no metrics: {error}")),
        };
        state["clients"] = json!(self.crowd.len());
        state["electric"] = json!(self.database.is_running());
        state["issuer"] = json!(self.issuer.is_running());
        Reply::json(200, state.to_string())
    }

    /// Returns the query of a live poll at the end of org-1's log, as a client that has caught up sends it.
    async fn live_query(&self) -> Reply {
        let query = self.crowd.live_query().await;
        query.map_or_else(|| problem(503, "shapegate cannot serve the shape now"), plain)
    }

    fn token(&self, organization: &str) -> Reply {
        let token = self.issuer.token("you", organization);
        token.map_or_else(|| problem(503, "the issuer is restarting"), plain)
    }

    fn sign(&self, claims: &[u8]) -> Reply {
        let Ok(claims @ Value::Object(_)) = serde_json::from_slice(claims) else {
            return problem(400, "the claims are not a JSON object");
        };
        self.issuer.sign(&claims).map_or_else(|| problem(503, "the issuer is restarting"), plain)
    }

    async fn add_clients(&self) -> Reply {
        let clients = self.crowd.add(100);
        self.crowd.settle().await;
        let words = self.measure.figures().await.map_or_else(|error| error.to_string(), |figures| figures.words());
        self.tell(&format!("+100 clients, {clients} in all. {words}."));
        done(&format!("{clients} clients follow org-1."))
    }

    fn remove_clients(&self) -> Reply {
        self.crowd.clear();
        self.tell("The clients have disconnected.");
        done("The clients have disconnected.")
    }

    async fn write_row(&self, organization: &str) -> Reply {
        let waits = organization == "org-1" && self.database.is_running();
        let write = || self.database.write(organization);
        let (title, reached) = match waits {
            true => self.crowd.deliver(write).await,
            false => (write(), Delivery::default()),
        };
        let Some(title) = title else { return own_electric() };
        let mut words = format!("Row written: {title}.");
        if reached.expected > 0 {
            let millis = reached.took.as_millis();
            words += &format!(" It reached {} of {} clients in {millis} ms.", reached.clients, reached.expected);
        }
        self.tell(&words);
        done(&words)
    }

    async fn restart_electric(&self) -> Reply {
        if !self.database.is_own() {
            return own_electric();
        }
        self.tell("Electric stops. Clients get 502 with Retry-After, keep their rows and try again.");
        match self.database.restart().await {
            Ok(true) => {
                let words = "Electric is back, without its shapes: clients get 409 and load the rows again.";
                self.tell(words);
                done(words)
            }
            Ok(false) => problem(409, "Electric is restarting already"),
            Err(error) => problem(500, &format!("Electric does not start: {error}")),
        }
    }

    async fn restart_issuer(&self) -> Reply {
        self.tell("The issuer stops. shapegate goes on with the keys that it has.");
        match self.issuer.restart().await {
            Ok(true) => {
                let words =
                    "The issuer is back with a new key. The first token that names it makes shapegate fetch it.";
                self.tell(words);
                done(words)
            }
            Ok(false) => problem(409, "the issuer is restarting already"),
            Err(error) => problem(500, &format!("the issuer does not start: {error}")),
        }
    }

    /// Applies edited rules to the running shapegate, which judges waiting clients by them at once.
    fn apply(&self, rules: &str) -> Reply {
        let (Some(config), _) = check(&self.running.settings, rules) else {
            return problem(422, "the rule has errors");
        };
        match self.running.reloader.take(config) {
            Ok(()) => {
                let words = "The rule is in use. Waiting clients were judged by it again.";
                self.tell(words);
                done(words)
            }
            Err(error) => problem(500, &format!("{error:#}")),
        }
    }

    /// Prints a line on the terminal.
    fn tell(&self, words: &str) {
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(SystemClock.now().as_secs()));
        // The receiver is gone only when the demo ends.
        let _ = self.running.told.send(format!("{time} {words}"));
    }
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

fn file(path: &str) -> Reply {
    let found = FILES.iter().find(|(known, ..)| *known == path);
    found.map_or_else(
        || problem(404, "no such file"),
        |(_, kind, content)| Reply::new(200).with_header("content-type", kind).with_body(*content),
    )
}

/// Returns the organization that a request is about.
fn organization(request: &Request) -> &'static str {
    if request.query() == "organization=org-2" { "org-2" } else { "org-1" }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

fn plain(text: String) -> Reply {
    Reply::new(200).with_header("content-type", "text/plain; charset=utf-8").with_body(text)
}

fn done(words: &str) -> Reply {
    Reply::json(200, json!({ "message": words }).to_string())
}

fn problem(status: u16, message: &str) -> Reply {
    Reply::json(status, json!({ "message": message }).to_string())
}

fn own_electric() -> Reply {
    problem(409, "this Electric is your own: write rows to its Postgres, and restart it yourself")
}
