//! The page of `shapegate demo`, in a real browser: every button, every kind of error, colors and labels.
//!
//! `SHAPEGATE_PICTURES` names a folder for pictures of each state.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::chromium::{Browser, Seen};
use crate::harness::{Answer, SECRET, shapegate};

/// A demo on free ports.
struct Demo {
    page: String,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Self {
        let arguments = [&["demo", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut child = shapegate(&arguments).env("ELECTRIC_SECRET", SECRET).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(page) = line.strip_prefix("page: ") {
                return Self { page: page.to_owned(), lines, _child: child };
            }
        }
    }

    /// Reads what the demo says until a line contains `words`.
    async fn until_said(&mut self, words: &str) {
        while !self.lines.next_line().await.unwrap().unwrap().contains(words) {}
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = reqwest::Client::new().post(format!("{}{path}", self.page));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }
}

/// The page in a browser.
struct Page(Browser);

/// What the page has not shown by then, it never shows.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

impl Page {
    async fn open(url: &str) -> Self {
        let mut browser = Browser::start("").await;
        browser.open(url).await;
        Self(browser)
    }

    /// Waits until an expression is true.
    async fn until(&mut self, expression: &str) {
        let wait = format!(
            "new Promise((done) => {{ const look = () => ({expression}) ? done(true) : setTimeout(look, 20); look(); }})"
        );
        // The page reports all the time, so the browser's own patience does not end.
        let shown = tokio::time::timeout(PATIENCE, self.0.evaluate(&wait)).await;
        assert_eq!(shown.ok(), Some(json!(true)), "{expression}");
    }

    /// Waits until the element with this id contains `words`.
    async fn until_shown(&mut self, id: &str, words: &str) {
        self.until(&format!("document.getElementById('{id}')?.textContent.includes({})", json!(words))).await;
    }

    /// Restarts a service, does `then` once the page shows that it is away, and waits until the outcome contains `words`.
    /// Tries again if the service was back before that: the time is short for a busy machine.
    async fn until_shown_without(&mut self, (restart, back): (&str, &str), then: &[&str], words: &str) {
        let backs = format!("document.getElementById('log').textContent.split({}).length", json!(back));
        let outcome = format!("document.getElementById('outcome').textContent.includes({})", json!(words));
        loop {
            let before = self.0.evaluate(&backs).await;
            self.click(restart).await;
            for selector in then {
                self.until(&format!(
                    "document.getElementById('issuer').textContent.includes('restarting') || {backs} > {before}"
                ))
                .await;
                self.click(selector).await;
            }
            self.until(&format!("{outcome} || {backs} > {before}")).await;
            if self.0.evaluate(&outcome).await == json!(true) {
                return;
            }
        }
    }

    async fn click(&mut self, selector: &str) {
        self.until(&format!("!document.querySelector({}).disabled", json!(selector))).await;
        self.0.evaluate(&format!("document.querySelector({}).click()", json!(selector))).await;
    }

    /// Replaces a part of a field's text, as typing does.
    async fn edit(&mut self, id: &str, old: &str, new: &str) {
        let script = format!(
            "{{ const field = document.getElementById('{id}'); field.value = field.value.replace({}, {}); \
             for (const event of ['input', 'change']) field.dispatchEvent(new Event(event)); }}",
            json!(old),
            json!(new)
        );
        self.0.evaluate(&script).await;
    }

    async fn choose(&mut self, organization: &str) {
        let script = format!(
            "{{ const field = document.getElementById('organization'); field.value = '{organization}'; \
             field.dispatchEvent(new Event('change')); }}"
        );
        self.0.evaluate(&script).await;
    }

    /// Checks contrast, labels and width of the current state, and takes a picture if a folder is given.
    async fn check(&mut self, name: &str) {
        let faults = self.0.evaluate(&format!("({})()", include_str!("readable.js"))).await;
        assert_eq!(faults, json!([]), "{name}");
        if let Ok(folder) = std::env::var("SHAPEGATE_PICTURES") {
            let picture = self.0.picture().await;
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), picture).unwrap();
        }
    }

    /// Checks the current state on a wide screen and a phone, in light and dark colors.
    async fn check_all(&mut self, name: &str) {
        for (screen, width) in [("phone", 390), ("desktop", 1280)] {
            for (scheme, dark) in [("dark", true), ("light", false)] {
                self.0.emulate(width, dark).await;
                self.check(&format!("{name}-{screen}-{scheme}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_page_shows_how_many_clients_share_a_request() {
    let mut demo = Demo::start(&[]).await;
    let mut page = Page::open(&demo.page).await;
    page.until_shown("outcome", "200:").await;
    page.until_shown("waiting", "1").await;
    page.check_all("rest").await;
    for _ in 0..5 {
        page.click("[data-post='/clients']").await;
    }
    demo.until_said("500 in all").await;
    page.until("Number(document.getElementById('waiting').textContent) > 480").await;
    page.until("Number(document.getElementById('upstream').textContent) < 10").await;
    page.click("#write").await;
    page.until_shown("log", "It reached 500 of 500 clients").await;
    demo.until_said("It reached 500 of 500 clients").await;
    // The page's own poll, and the one that Electric got for it.
    page.until_shown("asked", "livetrue").await;
    page.until_shown("sent", "livetrue").await;
    page.check_all("followers").await;
    page.click("[data-post='/clients/remove']").await;
    page.until("Number(document.getElementById('waiting').textContent) < 2").await;
    no_complaints(page).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_page_survives_restarts_of_electric_and_issuer() {
    let demo = Demo::start(&[]).await;
    let mut page = Page::open(&demo.page).await;
    page.until_shown("outcome", "200:").await;
    page.until_shown_without(("#restart-electric", "Electric is back"), &[], "502 upstream_unreachable").await;
    page.check("electric-down").await;
    page.until_shown("log", "Electric is back").await;
    page.until_shown("outcome", "200:").await;
    let issuer = ("[data-post='/issuer/restart']", "The issuer is back");
    page.until_shown_without(issuer, &["#renew"], "the issuer is restarting").await;
    page.check("issuer-down").await;
    page.until_shown("log", "The issuer is back").await;
    page.click("#renew").await;
    page.until_shown("outcome", "200:").await;
    no_complaints(page).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_page_shows_why_tokens_and_rules_are_rejected() {
    let demo = Demo::start(&[]).await;
    let mut page = Page::open(&demo.page).await;
    page.until_shown("outcome", "200:").await;
    // Both requests, with the values bound and without the secret.
    page.until_shown("sent", "\"organization_id\" = $1params[1]org-1").await;
    page.until_shown("sent", "secret…").await;
    page.until_shown("asked", "AuthorizationBearer eyJ").await;

    page.choose("org-2").await;
    page.until_shown("outcome", "403 forbidden").await;
    page.until_shown("outcome", "Reason: allow_false").await;
    page.until_shown("sent", "shapegate answers 403 itself").await;
    page.check_all("forbidden").await;
    page.edit("claims", "\"org-1\"", "\"org-2\"").await;
    page.click("#forge").await;
    page.until_shown("outcome", "Reason: signature").await;
    page.check("forged").await;
    page.edit("claims", "{", "").await;
    page.click("#sign").await;
    page.until_shown("outcome", "not a JSON object").await;
    page.click("#renew").await;
    page.until_shown("outcome", "200:").await;
    page.click("#expire").await;
    page.until_shown("log", "token_expired").await;
    page.check_all("expired").await;
    page.until_shown("outcome", "200:").await;

    page.edit("rule", "allow =", "alow =").await;
    page.until_shown("findings", "Line 3: shape[0].alow: unknown key; did you mean `allow`?").await;
    page.check("rule-error").await;
    assert_eq!(page.0.evaluate("document.getElementById('apply').disabled").await, json!(true));
    page.edit("rule", "alow = \"", "allow = \"false && ").await;
    page.until_shown("findings", "No errors.").await;
    page.click("#apply").await;
    page.until_shown("outcome", "403 forbidden").await;
    page.click("#reset").await;
    page.click("#apply").await;
    page.until_shown("outcome", "200:").await;
    no_complaints(page).await;
}

/// The console shows a line for each status over 399, and nothing else.
async fn no_complaints(Page(mut browser): Page) {
    let mut seen = Seen::default();
    browser.settle(&mut seen).await;
    assert!(seen.complaints.iter().all(|line| line.contains("Failed to load resource")), "{:#?}", seen.complaints);
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_takes_orders_only_from_its_own_page() {
    let demo = Demo::start(&[]).await;
    let allowed = demo.post("rule/check", &[("x-demo", "1")]).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    assert_eq!(demo.post("rule/check", &[]).await.status, 403);
    assert_eq!(demo.post("rule/check", &[("x-demo", "1"), ("host", "rebound.example:8081")]).await.status, 403);
    assert_eq!(demo.post("nonsense", &[("x-demo", "1")]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_uses_an_electric_of_ones_own() {
    use shapegate::demo::electric::{Column, Electric, Options};
    let electric = Electric::start(Options { secret: SECRET.to_owned(), ..Options::default() }).await.unwrap();
    let columns = [("id", "int4"), ("organization_id", "text"), ("title", "text")];
    let columns = columns.map(|(name, kind)| Column::new(name, kind));
    electric.create_table(
        "tasks",
        [columns[0].clone().not_null().primary_key(0)].into_iter().chain(columns[1..].iter().cloned()).collect(),
    );
    electric.insert("tasks", json!({ "id": "1", "organization_id": "org-1", "title": "My own" })).unwrap();
    let demo = Demo::start(&["--electric", &electric.url()]).await;
    let mut page = Page::open(&demo.page).await;
    page.until_shown("rows", "My own").await;
    page.until_shown("electric", "your own").await;
    assert_eq!(demo.post("row", &[("x-demo", "1")]).await.status, 409);
    assert_eq!(demo.post("electric/restart", &[("x-demo", "1")]).await.status, 409);
    page.check("own-electric").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundle_of_the_page_is_made_from_the_locked_client() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/bundle.mjs");
    let checked = Command::new("node").args([script, "--check"]).output().await.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
