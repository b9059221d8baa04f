//! A real policy decision point: Cerbos.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{denied, most_evaluations, refusal, send_many, unavailable};
use crate::harness::{Answer, Gate, Setup};

/// A running Cerbos. It listens on sockets in its folder, since it cannot choose a free port; connections to a port
/// are passed on to it.
struct Cerbos {
    folder: TempDir,
    url: String,
    child: Child,
    _forward: JoinHandle<()>,
}

/// Members may read the projects that their token lists.
const POLICY: &str = r#"
apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: project
  version: default
  rules:
    - actions: ["read"]
      effect: EFFECT_ALLOW
      roles: ["member"]
      condition:
        match:
          expr: request.resource.id in request.principal.attr.projects
"#;

/// How long a test waits for Cerbos before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cerbos {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        let program = "tests/clients/node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64";
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(program))
            .arg("server")
            .args(["storage.driver=disk", "storage.disk.watchForChanges=true", "telemetry.disabled=true"].map(set))
            .args([
                set(&format!("storage.disk.directory={path}/policies")),
                set(&format!("server.httpListenAddr=unix:{path}/http")),
                set(&format!("server.grpcListenAddr=unix:{path}/grpc")),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cerbos: {error}; run .ci/setup-test"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let forward = tokio::spawn(forward(listener, folder.path().join("http")));
        let cerbos = Self { folder, url, child, _forward: forward };
        cerbos.policy(POLICY);
        cerbos.until(true).await;
        cerbos
    }

    fn policy(&self, policy: &str) {
        std::fs::write(self.folder.path().join("policies/project.yaml"), policy).unwrap();
    }

    /// Waits until Cerbos answers with `decision` whether a member may read a project.
    async fn until(&self, decision: bool) {
        let member = json!({ "cerbos.roles": ["member"], "projects": ["p"] });
        let question = json!({
            "subject": { "type": "user", "id": "a", "properties": member },
            "action": { "name": "read" },
            "resource": { "type": "project", "id": "p" },
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = async || {
            let request = client.post(format!("{}/access/v1/evaluation", self.url));
            let request = request.header("content-type", "application/json").body(question.to_string());
            let answer = request.send().await.ok()?.bytes().await.ok()?;
            serde_json::from_slice::<Value>(&answer).ok()?["decision"].as_bool()
        };
        let answered = async {
            while asked().await != Some(decision) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("Cerbos does not answer as its policy says");
    }
}

fn set(setting: &str) -> String {
    format!("--set={setting}")
}

async fn forward(listener: TcpListener, socket: std::path::PathBuf) {
    while let Ok((mut client, _)) = listener.accept().await {
        let socket = socket.clone();
        tokio::spawn(async move {
            if let Ok(mut server) = UnixStream::connect(socket).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

async fn start(cerbos: &Cerbos, cache: &str) -> Gate {
    let rules = format!(
        r#"
[[shape]]
table = "tasks"
where = '"organization_id" = {{{{ query.project }}}}'
[shape.evaluate]
by = "cerbos"
action = "read"
resource = {{ type = "project", id = "{{{{ query.project }}}}" }}
[shape.evaluate.subject]
type = "user"
id = "{{{{ claims.sub }}}}"
properties = {{ "cerbos.roles" = "{{{{ claims.roles }}}}", projects = "{{{{ claims.projects }}}}" }}

[decisions.cerbos]
url = "{}"
discover = true
timeout = "5s"
cache = "{cache}"
"#,
        cerbos.url
    );
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    gate.insert_task(1, "p", "mine");
    gate
}

const TASKS: &str = "/v1/shape?table=tasks&project=p";

fn token(gate: &Gate, role: &str, project: &str) -> String {
    gate.issuer.token(&json!({ "sub": "alice", "roles": [role], "projects": [project] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn cerbos_allows_and_denies() {
    let cerbos = Cerbos::start().await;
    let gate = start(&cerbos, "60s").await;
    let get =
        async |role: &str, project: &str| gate.get(&format!("{TASKS}&offset=-1"), &token(&gate, role, project)).await;
    assert_eq!(get("member", "p").await.rows("title"), ["mine"]);
    assert_eq!(refusal(&get("guest", "p").await), denied());
    assert_eq!(refusal(&get("member", "q").await), denied());
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="allow",service="cerbos"}"#).await, 1.0);
    assert_eq!(gate.metric(r#"shapegate_decisions_total{outcome="deny",service="cerbos"}"#).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cerbos_is_asked_once_in_each_cache_period() {
    const EVALUATIONS: &str = r#"shapegate_decisions_total{outcome="allow",service="cerbos"}"#;
    let cerbos = Cerbos::start().await;
    let (gate, start_time) = (start(&cerbos, "1s").await, Instant::now());
    let (target, member) = (format!("{TASKS}&offset=-1"), token(&gate, "member", "p"));
    send_many(&gate, 10_000, &target, &member).await;
    while gate.metric(EVALUATIONS).await < 2.0 {
        assert_eq!(gate.get(&target, &member).await.status, 200);
    }
    let asked = gate.metric(EVALUATIONS).await as usize;
    println!("10000 requests and {asked} evaluations in {:?}", start_time.elapsed());
    assert!(asked <= most_evaluations(start_time, Duration::from_secs(1)), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_clients_follow_the_policy_of_cerbos_and_its_absence() {
    let mut cerbos = Cerbos::start().await;
    let gate = start(&cerbos, "1s").await;
    let member = token(&gate, "member", "p");
    let first = gate.get(&format!("{TASKS}&offset=-1"), &member).await;
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    let next = gate.get(&format!("{TASKS}&handle={handle}&offset={offset}"), &member).await;
    let poll = format!("{TASKS}&handle={handle}&offset={}&live=true", next.header("electric-offset"));
    let wait = || {
        let request = gate.request(&poll, Some(&member)).send();
        tokio::spawn(async { Answer::of(request.await.unwrap()).await })
    };

    let waiting = wait();
    gate.until_metric("shapegate_followers", 1.0).await;
    cerbos.policy(&POLICY.replace("EFFECT_ALLOW", "EFFECT_DENY"));
    cerbos.until(false).await;
    assert_eq!(refusal(&waiting.await.unwrap()), denied());

    cerbos.policy(POLICY);
    cerbos.until(true).await;
    // That it was denied is remembered for a moment.
    while gate.get(&format!("{TASKS}&offset=-1"), &member).await.status == 403 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waiting = wait();
    gate.until_metric("shapegate_followers", 1.0).await;
    cerbos.child.kill().await.unwrap();
    assert_eq!(refusal(&waiting.await.unwrap()), unavailable(), "ended, but not logged out");
    assert_eq!(refusal(&gate.get(&format!("{TASKS}&offset=-1"), &member).await), unavailable(), "and not let in");
}
