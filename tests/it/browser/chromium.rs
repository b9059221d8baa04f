//! Controls a headless Chromium over its debugging pipe.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A browser that sends no message for this long has failed. A test page takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags that switch off what Chromium does in the background.
const QUIET: [&str; 9] = [
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
];

/// A browser with an empty profile.
pub(super) struct Browser {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    events: VecDeque<Value>,
    page: String,
    calls: u64,
    _child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium. It accepts an untrusted certificate if the SHA-256 of its SubjectPublicKeyInfo, in base64, is
    /// `key_hash`.
    pub(super) async fn start(key_hash: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from file descriptor 3 and writes to 4.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"]).args(QUIET);
        if rustix::process::getuid().is_root() {
            command.arg("--no-sandbox");
        }
        command
            .args([
                "--remote-debugging-pipe",
                &format!("--user-data-dir={}", profile.path().display()),
                &format!("--ignore-certificate-errors-spki-list={key_hash}"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (events, page) = (VecDeque::new(), String::new());
        let mut browser = Self { input, output, events, page, calls: 0, _child: child, _profile: profile };
        browser.attach().await;
        browser
    }

    /// Opens a page in a window of its own, as a second tab that is seen too. Calls then go to that.
    pub(super) async fn open_another(&mut self, url: &str) {
        self.attach().await;
        self.open(url).await;
    }

    async fn attach(&mut self) {
        self.page.clear();
        let target = self.call("Target.createTarget", json!({ "url": "about:blank", "newWindow": true })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("Target.attachToTarget", attach).await;
        session["sessionId"].as_str().unwrap().clone_into(&mut self.page);
        for domain in ["Runtime", "Log", "Network", "Page"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
    }

    /// Opens a page. What it passes to its function `report` is added to [`Seen::reports`].
    pub(super) async fn open(&mut self, url: &str) {
        self.call("Runtime.addBinding", json!({ "name": "report" })).await;
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert_eq!(opened.get("errorText"), None, "{url}");
    }

    /// Adds events to `seen` until it satisfies `wanted`.
    pub(super) async fn until(&mut self, seen: &mut Seen, mut wanted: impl FnMut(&Seen) -> bool) {
        while !wanted(seen) {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.message(seen).await,
            };
            seen.note(&event);
        }
    }

    /// Adds every event so far to `seen`.
    pub(super) async fn settle(&mut self, seen: &mut Seen) {
        // The result arrives after all earlier events.
        self.call("Runtime.evaluate", json!({ "expression": "0" })).await;
        self.events.drain(..).for_each(|event| seen.note(&event));
    }

    /// Evaluates an expression in the page, awaits it if it is a promise, and returns its value.
    pub(super) async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut done = self.call("Runtime.evaluate", parameters).await;
        assert_eq!(done.get("exceptionDetails"), None, "{expression}");
        done["result"]["value"].take()
    }

    /// Shows the page as on a screen of this width, in light or dark colors.
    pub(super) async fn emulate(&mut self, width: u32, dark: bool) {
        let screen = json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// Takes a picture of the whole page, as PNG.
    pub(super) async fn picture(&mut self) -> Vec<u8> {
        let height = self.evaluate("document.documentElement.scrollHeight").await;
        let width = self.evaluate("document.documentElement.scrollWidth").await;
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": clip })).await;
        STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.page.is_empty() {
            call["sessionId"] = json!(self.page);
        }
        let mut bytes = call.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.unwrap_or_else(|error| panic!("chromium: {error}; run .ci/setup-test"));
        loop {
            let mut message = self.message(&method).await;
            if message["id"] == json!(self.calls) {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push_back(message);
        }
    }

    async fn message(&mut self, waiting_for: &(impl std::fmt::Debug + ?Sized)) -> Value {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
        let read = read.unwrap_or_else(|_| panic!("no message from the browser: {waiting_for:#?}")).unwrap();
        assert!(read > 0, "chromium ended: is it installed? run .ci/setup-test");
        serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap()
    }
}

/// Everything that a page has reported and received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The values that it passed to `report`.
    pub(super) reports: Vec<Value>,
    /// Every response from the network.
    pub(super) answers: Vec<Answered>,
    /// Errors and warnings of the console, exceptions, and failed requests.
    pub(super) complaints: Vec<String>,
    urls: std::collections::HashMap<String, String>,
}

/// A response from the network.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) url: String,
    pub(super) preflight: bool,
    pub(super) status: u64,
    pub(super) protocol: String,
    /// Chromium's number of the connection that carried it.
    pub(super) connection: u64,
}

impl Seen {
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.bindingCalled" => {
                self.reports.push(serde_json::from_str(parameters["payload"].as_str().unwrap()).unwrap());
            }
            "Network.requestWillBeSent" => {
                self.urls.insert(text(&parameters["requestId"]), text(&parameters["request"]["url"]));
            }
            "Network.responseReceived" => {
                let response = &parameters["response"];
                self.answers.push(Answered {
                    url: text(&response["url"]),
                    preflight: parameters["type"] == "Preflight",
                    status: response["status"].as_u64().unwrap(),
                    protocol: text(&response["protocol"]),
                    connection: response["connectionId"].as_u64().unwrap_or_default(),
                });
            }
            "Network.loadingFailed" if parameters["canceled"] != true => {
                let url = self.urls.get(parameters["requestId"].as_str().unwrap_or_default());
                self.complaints.push(format!("{url:?}: {parameters}"));
            }
            "Runtime.consoleAPICalled" if parameters["type"] == "error" || parameters["type"] == "warning" => {
                self.complaints.push(parameters["args"].to_string());
            }
            "Runtime.exceptionThrown" => self.complaints.push(parameters["exceptionDetails"].to_string()),
            "Log.entryAdded" if parameters["entry"]["level"] != "verbose" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            _ => {}
        }
    }
}
