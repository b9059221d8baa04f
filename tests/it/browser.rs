//! A real browser with the real client, over TLS and HTTP/2, on a page of another origin.

mod chromium;
mod demo;

use std::path::Path;

use serde_json::{Value, json};
use shapegate::demo::electric::Options;
use shapegate::demo::http::{Reply, Request, Server, Serving};

use self::chromium::{Answered, Browser, Seen};
use crate::harness::{Certificate, Gate, Setup};

/// Shapes that the page has open at once: twice the 6 connections that a browser opens to one host over HTTP/1.1.
const SHAPES: usize = 12;

/// A gate, and the server of the page.
struct Site {
    gate: Gate,
    page: String,
    key_hash: String,
    _serving: Serving,
}

impl Site {
    /// Starts both. The page opens the tasks of these organizations, with a token for the first `allowed` of them.
    async fn start(organizations: &[String], allowed: usize, live_sse: bool) -> Self {
        Self::with(organizations, allowed, live_sse, Options::default()).await
    }

    async fn with(organizations: &[String], allowed: usize, live_sse: bool, electric: Options) -> Self {
        let certificate = Certificate::new();
        let key_hash = certificate.key_hash();
        let gate = Gate::with(Setup { certificate: Some(certificate), electric, ..Setup::default() }).await;
        let shape = |organization| json!({ "table": "tasks", "organizationId": organization });
        let options = json!({
            "url": format!("{}/v1/shape", gate.url),
            "shapes": organizations.iter().map(shape).collect::<Vec<_>>(),
            "liveSse": live_sse,
        });
        let allowed: Vec<_> = organizations[..allowed].iter().map(String::as_str).collect();
        let token = gate.token(&allowed);
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let page = format!("http://localhost:{}/page.html", server.local_addr().unwrap().port());
        let serving = server.serve(move |request| {
            std::future::ready(match request.path() {
                "/options" => Reply::json(200, options.to_string()),
                "/token" => Reply::new(200).with_body(token.clone()),
                path => file(path),
            })
        });
        Self { gate, page, key_hash, _serving: serving }
    }

    /// Returns the responses of the gate: those to preflights, and the others.
    fn answers<'a>(&self, seen: &'a Seen) -> (Vec<&'a Answered>, Vec<&'a Answered>) {
        seen.answers.iter().filter(|answer| answer.url.starts_with(&self.gate.url)).partition(|answer| answer.preflight)
    }
}

/// Serves a file of `tests/clients`.
fn file(path: &str) -> Reply {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    let kind = if path.ends_with(".html") { "text/html" } else { "text/javascript" };
    match std::fs::read(folder.join(path.trim_start_matches('/'))) {
        Ok(bytes) => Reply::new(200).with_header("content-type", kind).with_body(bytes),
        Err(_) => Reply::new(404),
    }
}

fn organizations() -> Vec<String> {
    (0..SHAPES).map(|number| format!("org_{number}")).collect()
}

/// Returns whether every shape has reported its row with this title.
fn all_have(seen: &Seen, title: &str) -> bool {
    let has = |shape: usize| {
        seen.reports
            .iter()
            .any(|line| line["shape"] == json!(shape) && line["title"] == json!(format!("{title} {shape}")))
    };
    (0..SHAPES).all(has)
}

async fn twelve_shapes(live_sse: bool) {
    let organizations = organizations();
    let site = Site::start(&organizations, SHAPES, live_sse).await;
    let insert = |title: &str, from: u32| {
        for (number, organization) in (0..).zip(&organizations) {
            site.gate.insert_task(from + number, organization, &format!("{title} {number}"));
        }
    };
    insert("first", 0);
    let mut browser = Browser::start(&site.key_hash).await;
    let mut seen = Seen::default();
    browser.open(&site.page).await;
    browser.until(&mut seen, |seen| all_have(seen, "first")).await;
    // All of them wait at the same time, which is more than HTTP/1.1 would allow.
    site.gate.electric.wait_for_waiting(SHAPES).await;
    insert("second", 100);
    browser.until(&mut seen, |seen| all_have(seen, "second")).await;
    site.gate.electric.wait_for_waiting(SHAPES).await;
    browser.settle(&mut seen).await;

    let rows = seen.reports.iter().filter(|line| line["operation"] == "insert").count();
    assert_eq!((rows, seen.reports.len()), (2 * SHAPES, 2 * SHAPES), "{:#?}", seen.reports);
    assert_eq!(seen.complaints, Vec::<String>::new());
    let (preflights, answers) = site.answers(&seen);
    assert!(preflights.len() >= SHAPES && preflights.iter().all(|answer| answer.status == 204), "{preflights:#?}");
    assert!(answers.len() >= 2 * SHAPES && answers.iter().all(|answer| answer.status == 200), "{answers:#?}");
    let all = || preflights.iter().chain(&answers);
    assert!(all().all(|answer| answer.protocol == "h2"), "{answers:#?}");
    // A browser may open two or three connections before it knows that the server speaks HTTP/2, but uses only one.
    let first = answers[0].connection;
    assert!(all().all(|answer| answer.connection == first), "{answers:#?}");
    let live = |request: &&Request| request.target.contains("live_sse=true");
    assert_eq!(site.gate.electric.requests().iter().filter(live).count() > 0, live_sse);
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_live_shapes_share_one_connection_by_long_poll() {
    twelve_shapes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_live_shapes_share_one_connection_by_sse() {
    twelve_shapes(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_behind_one_browser_cache_get_every_row_once_and_do_not_loop() {
    const ROWS: u32 = 6;
    let organizations = ["org_0".to_owned()];
    let hold = std::time::Duration::from_millis(300);
    let site = Site::with(&organizations, 1, false, Options { hold, ..Options::default() }).await;
    let mut browser = Browser::start(&site.key_hash).await;
    let mut seen = Seen::default();
    browser.open(&site.page).await;
    browser.open_another(&format!("{}#1", site.page)).await;
    let titles = |seen: &Seen, shape: usize| {
        let rows = seen.reports.iter().filter(|line| line["shape"] == json!(shape));
        rows.map(|line| line["title"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut written = Vec::new();
    for row in 0..ROWS {
        written.push(format!("row {row}"));
        site.gate.insert_task(row, "org_0", &format!("row {row}"));
        let last = written.last().unwrap();
        browser.until(&mut seen, |seen| (0..2).all(|shape| titles(seen, shape).contains(last))).await;
        // Polls without a change, whose responses the browser caches for seconds.
        let asked = site.gate.electric.request_count();
        site.gate.electric.wait_for_requests(asked + 3).await;
    }
    browser.settle(&mut seen).await;
    for shape in 0..2 {
        assert_eq!(titles(&seen, shape), written, "{shape}");
    }
    assert_eq!(seen.complaints, Vec::<String>::new());
    let (_, answers) = site.answers(&seen);
    let asked = site.gate.electric.request_count();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:#?}");
    assert!(answers.len() <= 2 * asked + 10, "{} responses for {asked} of Electric", answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn page_can_read_why_a_shape_is_rejected() {
    let organizations = organizations();
    let site = Site::start(&organizations, SHAPES - 1, false).await;
    site.gate.insert_task(1, "org_0", "mine");
    site.gate.insert_task(2, "org_11", "foreign");
    let mut browser = Browser::start(&site.key_hash).await;
    let mut seen = Seen::default();
    browser.open(&site.page).await;
    let stopped = |line: &Value| line["stopped"] == json!(403);
    let wanted =
        |seen: &Seen| seen.reports.iter().any(stopped) && seen.reports.iter().any(|line| line["title"] == "mine");
    browser.until(&mut seen, wanted).await;
    site.gate.electric.wait_for_waiting(SHAPES - 1).await;
    browser.settle(&mut seen).await;
    let of_last: Vec<_> = seen.reports.iter().filter(|line| line["shape"] == json!(SHAPES - 1)).collect();
    assert_eq!(of_last[0], &json!({ "shape": SHAPES - 1, "error": 403, "code": "forbidden" }));
    assert!(of_last.iter().all(|line| line["title"].is_null()), "{of_last:#?}");
    // The console shows a line for each status over 399, and no CORS error.
    assert!(seen.complaints.iter().all(|line| line.contains("status of 403")), "{:#?}", seen.complaints);
    let refused = |shape: &Request| shape.target.contains("org_11");
    assert!(!site.gate.electric.requests().iter().any(refused));
}
