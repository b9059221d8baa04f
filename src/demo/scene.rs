//! The servers of `shapegate demo`: an issuer that gives out tokens, a stand-in for Electric that gains rows, and a
//! page.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::json;

use super::electric::{Column, Electric, Options};
use super::http::{Limits, Reply, Request, Server, Serving};
use super::issuer::Issuer;
use crate::clock::{Clock, SystemClock};

/// The secret between the demo's shapegate and its stand-in. It protects nothing.
pub const SECRET: &str = "demo-secret";

/// The servers that the demo starts besides shapegate.
pub struct Scene {
    electric: Electric,
    issuer: Issuer,
    _serving: Serving,
}

impl Scene {
    /// Starts the issuer and the stand-in on loopback. The page asks for shapes at `shape_url`.
    ///
    /// # Errors
    /// A port cannot be bound, or the system has no randomness.
    pub async fn start(server: Server, shape_url: String) -> io::Result<Self> {
        let electric = Electric::start(Options { secret: SECRET.to_owned(), ..Options::default() }).await?;
        electric.create_table("tasks", columns());
        let name = format!("http://{}", server.local_addr()?);
        let issuer =
            Issuer::new(&name).map_err(|_| io::Error::other("cannot generate a key: the system has no randomness"))?;
        let desk = Arc::new(Desk { issuer: issuer.clone(), page: PAGE.replace("{{shape_url}}", &shape_url) });
        let serving = server.serve(move |request| std::future::ready(desk.answer(&request)));
        Ok(Self { electric, issuer, _serving: serving })
    }

    /// Binds the server for [`Scene::start`], which needs its address before the page can be written.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn server() -> io::Result<Server> {
        let limits = Limits { requests: usize::MAX, ..Limits::default() };
        Ok(Server::bind((Ipv4Addr::LOCALHOST, 0).into()).await?.with_limits(limits))
    }

    /// Returns the issuer's URL, which also serves the page.
    pub fn issuer_url(&self) -> &str {
        self.issuer.name()
    }

    /// Returns the stand-in's URL.
    pub fn electric_url(&self) -> String {
        self.electric.url()
    }

    /// Inserts row number `number`: odd ones belong to `org-1`, even ones to `org-2`.
    pub fn write_row(&self, number: u64) {
        let organization = if number % 2 == 1 { "org-1" } else { "org-2" };
        let row = json!({
            "id": format!("00000000-0000-4000-8000-{number:012}"),
            "organization_id": organization,
            "title": format!("{} for {organization}", TITLES[usize::try_from(number).unwrap_or(0) % TITLES.len()]),
            "status": "todo",
        });
        if let Err(error) = self.electric.insert("tasks", row) {
            tracing::error!(%error, "cannot insert the demo's row");
        }
    }
}

struct Desk {
    issuer: Issuer,
    page: String,
}

impl Desk {
    fn answer(&self, request: &Request) -> Reply {
        match request.path() {
            "/" => Reply::new(200).with_header("content-type", "text/html; charset=utf-8").with_body(self.page.clone()),
            "/jwks" => Reply::json(200, self.issuer.jwks().to_string()),
            path => match path.strip_prefix("/token/") {
                Some(organization) => {
                    Reply::new(200).with_header("content-type", "text/plain").with_body(self.token(organization))
                }
                None => Reply::new(404).with_body("/ /jwks /token/org-1 /token/org-2\n"),
            },
        }
    }

    /// Returns a token that is valid for five minutes. Anyone gets one: this is a demo.
    fn token(&self, organization: &str) -> String {
        let now = SystemClock.now().as_secs();
        self.issuer.sign(&json!({
            "sub": format!("somebody of {organization}"),
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            "organizationIds": [organization],
        }))
    }
}

/// The audience of the demo's tokens.
pub const AUDIENCE: &str = "https://demo.example";

const PAGE: &str = include_str!("page.html");

const TITLES: [&str; 6] = [
    "Water the plants",
    "Sharpen the pencils",
    "Answer the letter",
    "Mend the gate",
    "Fetch the ladder",
    "Wind the clock",
];

fn columns() -> Vec<Column> {
    vec![
        Column::new("id", "uuid").not_null().primary_key(0),
        Column::new("organization_id", "text").not_null(),
        Column::new("title", "text"),
        Column::new("status", "text"),
    ]
}
