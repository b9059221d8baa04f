//! The life cycle of the process: start, upgrade to a new process, shutdown.

mod load;
mod notify;
mod successor;

use std::io::BufRead as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use shapegate::demo::electric::{Column, Electric, Options};

use crate::harness::{Answer, Certificate, Gate, IssuerServer, SECRET, Service, Stream, Wire, shapegate};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// The Electric, the issuer and the folder that a service needs.
struct Around {
    electric: Electric,
    issuer: IssuerServer,
    folder: tempfile::TempDir,
}

impl Around {
    async fn start(options: Options) -> Self {
        let electric = Electric::start(options).await.unwrap();
        let text = |name: &str| Column::new(name, "text");
        let key = Column::new("id", "uuid").not_null().primary_key(0);
        electric.create_table("tasks", vec![key, text("organization_id"), text("title")]);
        Self { electric, issuer: IssuerServer::start().await, folder: tempfile::tempdir().unwrap() }
    }

    fn config(&self, server: &str) -> std::path::PathBuf {
        Service::config(self.folder.path(), &self.electric.url(), self.issuer.url(), server)
    }

    fn token(&self, user: usize) -> String {
        self.issuer.token(&json!({ "sub": format!("user-{user}"), "organizationIds": ["org_1"] }))
    }

    fn insert(&self, id: usize) {
        let id = format!("00000000-0000-0000-0000-{id:012}");
        self.electric.insert("tasks", json!({ "id": id, "organization_id": "org_1", "title": "new" })).unwrap();
    }
}

fn request(target: &str, token: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}

async fn status(url: &str, token: &str) -> u16 {
    let mut wire = Wire::open(url).await;
    wire.send(&request(TASKS, token)).await;
    wire.answer(false).await.unwrap().status.as_u16()
}

async fn metric(service: &Service, name: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", service.admin)).await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
}

const OK: &str = "shapegate_upgrades_total{result=\"ok\"}";
const FAILED: &str = "shapegate_upgrades_total{result=\"failed\"}";

/// Returns the target of the long poll that follows a response.
fn poll(first: &Answer) -> String {
    let (handle, offset) = (first.header("electric-handle"), first.header("electric-offset"));
    format!("/v1/shape?table=tasks&organizationId=org_1&handle={handle}&offset={offset}&live=true")
}

/// Starts a long poll on a new connection, and waits until Electric holds it.
async fn waiting(around: &Around, url: &str) -> Wire {
    let token = around.token(0);
    let mut wire = Wire::open(url).await;
    wire.send(&request(&TASKS.replace("offset=-1", "offset=now"), &token)).await;
    let first = wire.answer(false).await.unwrap();
    wire.send(&request(&poll(&first), &token)).await;
    around.electric.wait_for_waiting(1).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_takes_the_sockets_and_the_old_one_drains() {
    let around = Around::start(Options::default()).await;
    let mut service = Service::start(&around.config("")).await;
    let mut waiting = waiting(&around, &service.url).await;
    let mut idle = Wire::open(&service.url).await;
    idle.send(&request(TASKS, &around.token(1))).await;
    assert_eq!(idle.answer(false).await.unwrap().status, 200);
    let old = service.pid;
    service.upgrade().await;
    assert_ne!(service.pid, old);
    // A request on an idle connection is still answered, with `Connection: close`.
    idle.send(&request(TASKS, &around.token(1))).await;
    let last = idle.answer(false).await.unwrap();
    assert_eq!((last.status.as_u16(), last.header("connection")), (200, "close"));
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
    assert_eq!((metric(&service, OK).await, metric(&service, FAILED).await), (1.0, 0.0));
    around.insert(1);
    let answer = waiting.answer(false).await.unwrap();
    assert_eq!((answer.rows("title"), answer.header("connection")), (vec!["new".to_owned()], "close"));
    assert_eq!(service.first_ended().await.code(), Some(0));
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_end_between_events_and_continue_in_the_new_process() {
    let around = Around::start(Options::default()).await;
    let mut service = Service::start(&around.config("drain = \"4s\"")).await;
    let token = around.token(1);
    let mut first = Wire::open(&service.url).await;
    first.send(&request(TASKS, &token)).await;
    let target = format!("{}{}&live_sse=true", service.url, poll(&first.answer(false).await.unwrap()));
    let client = reqwest::Client::new();
    let mut events = Vec::new();
    for _ in 0..10 {
        let request = client.get(&target).header("accept", "text/event-stream").bearer_auth(&token);
        events.push(Stream::open(request).await);
    }
    around.insert(1);
    for stream in &mut events {
        stream.until("\"new\"").await;
    }
    service.upgrade().await;
    for stream in events {
        // Only whole events, and a clean end.
        let rest = stream.rest().await.unwrap();
        assert!(rest.is_empty() || rest.ends_with("\n\n"), "{rest:?}");
    }
    // Reconnecting works on a pooled connection to the old process and on a new one.
    for (client, whole) in [(client, false), (reqwest::Client::new(), true)] {
        let request = client.get(&target).header("accept", "text/event-stream").bearer_auth(&token);
        let mut stream = Stream::open(request).await;
        assert_eq!(stream.status(), 200);
        if whole {
            stream.until("\"new\"").await;
        }
    }
    assert_eq!(service.first_ended().await.code(), Some(0));
}

/// Limits the time in which a process with this configuration must become ready.
fn impatient(config: &str) -> String {
    config.replacen("[server]\n", "[server]\nupgrade_timeout = \"1s\"\n", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_upgrade_leaves_the_old_process_serving() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let good = std::fs::read_to_string(&config).unwrap();
    let mut service = Service::start(&config).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("listen = [\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    let faults = [
        (good.replace("listen =", "lisen ="), "lisen"),
        (good.replacen("listen = \"127.0.0.1:0\"", &more, 1), "cannot listen on"),
        (impatient(&good).replace(&around.electric.url(), "http://127.0.0.1:1"), "not ready after 1 s"),
    ];
    for (failures, (text, reason)) in (1_u8..).zip(&faults) {
        std::fs::write(&config, text).unwrap();
        service.signal(Signal::USR2);
        let failed = service.line("upgrade failed").await;
        assert!(failed["message"].as_str().unwrap().contains("exit status"), "{failed}");
        assert!(service.said(reason), "{reason}");
        assert_eq!(status(&service.url, &around.token(1)).await, 200);
        assert_eq!((metric(&service, OK).await, metric(&service, FAILED).await), (0.0, f64::from(failures)));
    }
    std::fs::write(&config, &good).unwrap();
    service.upgrade().await;
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_process_exits_with_1_if_the_new_one_is_killed_and_with_0_if_it_stops() {
    for (signal, code) in [(Signal::KILL, 1), (Signal::TERM, 0)] {
        let around = Around::start(Options::default()).await;
        let mut service = Service::start(&around.config("")).await;
        let mut waiting = waiting(&around, &service.url).await;
        service.upgrade().await;
        service.signal(signal);
        if signal == Signal::TERM {
            service.ended().await;
            around.insert(1);
            assert_eq!(waiting.answer(false).await.unwrap().rows("title"), ["new"]);
        }
        // Exit code 1 makes systemd start the service again.
        assert_eq!(service.first_ended().await.code(), Some(code), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_sends_goaway_over_http_2_and_polls_finish() {
    let around = Around::start(Options::default()).await;
    let mut service = Service::start(&around.config("h2c = true")).await;
    let address = service.url.strip_prefix("http://").unwrap().to_owned();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut ask = |target: &str| {
        let request = http::Request::get(format!("{}{target}", service.url));
        let request = request.header("authorization", format!("Bearer {}", around.token(1)));
        sender.send_request(request.body(()).unwrap(), true).unwrap().0
    };
    let first = ask(&TASKS.replace("offset=-1", "offset=now")).await.unwrap();
    let first = Answer { status: first.status(), headers: first.headers().clone(), body: Vec::new() };
    let waiting = ask(&poll(&first));
    around.electric.wait_for_waiting(1).await;
    service.upgrade().await;
    around.insert(1);
    let mut body = waiting.await.unwrap().into_body();
    let mut rows = Vec::new();
    while let Some(part) = body.data().await {
        rows.extend_from_slice(&part.unwrap());
    }
    assert!(String::from_utf8(rows).unwrap().contains("\"new\""));
    // A GOAWAY without an error follows the last stream.
    assert!(connection.await.unwrap().is_ok());
    assert!(sender.ready().await.is_err());
    assert_eq!(service.first_ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_has_the_current_certificate_and_rules() {
    let around = Around::start(Options::default()).await;
    let (old, new) = (Certificate::new(), Certificate::new());
    let config = around.config(&old.line());
    let mut service = Service::start(&config).await;
    let target = format!("{}{TASKS}", service.url.replace("http://", "https://"));
    let ask = async |certificate: &Certificate| {
        let request = certificate.client().build().unwrap().get(&target).bearer_auth(around.token(1));
        request.send().await.map(|answer| answer.status().as_u16())
    };
    assert_eq!((ask(&old).await.unwrap(), ask(&new).await.is_err()), (200, true));
    let text = std::fs::read_to_string(&config).unwrap().replace(&old.line(), &new.line());
    std::fs::write(&config, text.replace("table = \"tasks\"", "table = \"other\"")).unwrap();
    service.upgrade().await;
    // The old process may still accept a connection and serve it.
    while ask(&new).await.is_err() {}
    assert_eq!((ask(&new).await.unwrap(), ask(&old).await.is_err()), (404, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_starts_the_file_that_is_currently_at_the_program_path() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let (program, other) = (around.folder.path().join("shapegate"), around.folder.path().join("other"));
    symlink(env!("CARGO_BIN_EXE_shapegate"), &program).unwrap();
    let mut command = tokio::process::Command::new(&program);
    command.args(["--config", config.to_str().unwrap()]).env("ELECTRIC_SECRET", SECRET).kill_on_drop(true);
    let mut service = Service::with(command).await;
    std::fs::write(&other, "#!/bin/sh\necho \"$@\" >\"$0.arguments\"; exit 3\n").unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::rename(&other, &program).unwrap();
    service.signal(Signal::USR2);
    let failed = service.line("upgrade failed").await;
    assert!(failed["message"].as_str().unwrap().contains("exit status: 3"), "{failed}");
    let arguments = std::fs::read_to_string(program.with_extension("arguments")).unwrap();
    assert_eq!(arguments, format!("--config {} --upgrade\n", config.display()));
    std::fs::remove_file(&program).unwrap();
    service.signal(Signal::USR2);
    let failed = service.line("upgrade failed").await;
    assert!(failed["message"].as_str().unwrap().contains("cannot start the new process"), "{failed}");
    symlink(env!("CARGO_BIN_EXE_shapegate"), &program).unwrap();
    service.upgrade().await;
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_upgrade_socket_an_upgrade_fails_and_serving_continues() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let text = std::fs::read_to_string(&config).unwrap().replace("upgrade_socket = \"upgrade.sock\"", "");
    std::fs::write(&config, text).unwrap();
    let mut service = Service::start(&config).await;
    service.signal(Signal::USR2);
    let failed = service.line("upgrade failed").await;
    assert!(failed["message"].as_str().unwrap().contains("server.upgrade_socket"), "{failed}");
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
    let alone = shapegate(&["--config", config.to_str().unwrap(), "--upgrade"]).output().await.unwrap();
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(alone.status.code() == Some(1) && said.contains("set server.upgrade_socket"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_flag_takes_over_a_running_process_and_fails_without_one() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let arguments = ["--config", config.to_str().unwrap(), "--upgrade"];
    let alone = shapegate(&arguments).output().await.unwrap();
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(alone.status.code() == Some(1) && said.contains("no running shapegate to take over from"), "{said}");
    let mut old = Service::start(&config).await;
    let new = Service::with(shapegate(&arguments)).await;
    assert_eq!((&new.url, &new.admin), (&old.url, &old.admin));
    assert_eq!(old.first_ended().await.code(), Some(0));
    assert_eq!(status(&new.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_not_given_the_sockets() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be another user");
        return;
    }
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let mut service = Service::start(&config).await;
    // Even if file permissions allow the connection, the kernel's peer credentials decide.
    for (name, mode) in [("", 0o755), ("upgrade.sock", 0o666)] {
        let path = around.folder.path().join(name);
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let path = around.folder.path().join("upgrade.sock");
    // Returns the first line that a user receives. Only one thread changes its user.
    let told = async |uid: u32| {
        let path = path.clone();
        let asked = std::thread::spawn(move || {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
            let mut line = String::new();
            let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            std::io::BufReader::new(stream).read_line(&mut line).unwrap();
            line
        });
        tokio::task::spawn_blocking(|| asked.join().unwrap()).await.unwrap()
    };
    assert_eq!(told(65534).await, "no: it runs as another user\n");
    service.line("no upgrade").await;
    // The same user is offered the sockets, and nothing changes until it sends `ready`.
    let offer = told(0).await;
    assert!(offer.starts_with("{\"version\":1,") && offer.contains("\"upgrade\""), "{offer}");
    service.line("no upgrade").await;
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_polls_finish_and_a_second_one_stops_at_once() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    for signals in [1, 2] {
        let mut service = Service::start(&config).await;
        let mut waiting = waiting(&around, &service.url).await;
        service.signal(Signal::TERM);
        service.line("stopping").await;
        let ready = reqwest::get(format!("{}/readyz", service.admin)).await.unwrap();
        assert_eq!(ready.status(), 503);
        while tokio::net::TcpStream::connect(service.url.strip_prefix("http://").unwrap()).await.is_ok() {}
        if signals == 1 {
            around.insert(1);
            assert_eq!(waiting.answer(false).await.unwrap().rows("title"), ["new"]);
        } else {
            service.signal(Signal::TERM);
            assert!(waiting.answer(false).await.is_none());
        }
        assert_eq!(service.ended().await.code(), Some(0));
        assert!(!around.folder.path().join("upgrade.sock").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_cut_at_the_end_of_drain() {
    let around = Around::start(Options::default()).await;
    let mut service = Service::start(&around.config("drain = \"1s\"")).await;
    let mut waiting = waiting(&around, &service.url).await;
    service.signal(Signal::TERM);
    service.line("drain timed out: requests in flight were aborted").await;
    assert!(waiting.answer(false).await.is_none());
    assert_eq!(service.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_after_sigkill_works_without_the_issuer() {
    let around = Around::start(Options::default()).await;
    let config = around.config("state = \"state\"");
    std::fs::create_dir(around.folder.path().join("state")).unwrap();
    let mut service = Service::start(&config).await;
    let token = around.token(1);
    assert_eq!(status(&service.url, &token).await, 200);
    let state = around.folder.path().join("state");
    let saved =
        |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path().extension().is_some_and(|end| end == "json");
    while !std::fs::read_dir(&state).unwrap().any(saved) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    around.issuer.set_up(false);
    service.signal(Signal::KILL);
    service.ended().await;
    // Files that it left behind, such as its upgrade socket, do not prevent a start.
    let mut service = Service::start(&config).await;
    assert_eq!(status(&service.url, &token).await, 200);
    assert_eq!(reqwest::get(format!("{}/readyz", service.admin)).await.unwrap().status(), 200);
    service.upgrade().await;
    assert_eq!(status(&service.url, &token).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_serves_one_more_request_on_idle_connections_and_closes_them() {
    let mut gate = Gate::start().await;
    let token = gate.token(&["org_1"]);
    let (mut busy, mut idle) = (Wire::open(&gate.url).await, Wire::open(&gate.url).await);
    for wire in [&mut busy, &mut idle] {
        wire.send(&request(TASKS, &token)).await;
        assert_eq!(wire.answer(false).await.unwrap().status, 200);
    }
    let admin = gate.admin.clone();
    let asking = async {
        while reqwest::get(format!("{admin}/readyz")).await.unwrap().status() == 200 {}
        busy.send(&request(TASKS, &token)).await;
        let last = busy.answer(false).await.unwrap();
        assert_eq!((last.status.as_u16(), last.header("connection")), (200, "close"));
        assert_eq!(busy.rest().await, "");
    };
    tokio::join!(gate.stop(), asking);
    assert_eq!(idle.rest().await, "");
}

/// Starts a service and an upgrade whose new process waits because it gets no keys from the issuer.
async fn one_that_waits(around: &Around) -> Service {
    let mut service = Service::start(&around.config("")).await;
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
    around.issuer.set_up(false);
    service.signal(Signal::USR2);
    service.line("not ready").await;
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_during_an_upgrade_is_not_lost() {
    let around = Around::start(Options::default()).await;
    let mut service = one_that_waits(&around).await;
    let config = around.folder.path().join("shapegate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("table = \"tasks\"", "table = \"other\"")).unwrap();
    service.signal(Signal::HUP);
    service.line("configuration reloaded").await;
    assert_eq!(status(&service.url, &around.token(1)).await, 404);
    around.issuer.set_up(true);
    service.taken_over().await;
    // The old process has ended, so the new one responds.
    assert_eq!(service.first_ended().await.code(), Some(0));
    assert_eq!(status(&service.url, &around.token(1)).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_does_not_serve_if_the_old_one_stops_first() {
    let around = Around::start(Options::default()).await;
    let mut service = one_that_waits(&around).await;
    service.signal(Signal::TERM);
    service.line("stopping").await;
    assert_eq!(service.first_ended().await.code(), Some(0));
    around.issuer.set_up(true);
    // The sockets close when the waiting process ends.
    let address = service.url.strip_prefix("http://").unwrap();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(!service.said("the old process ended"), "the new process serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_needs_one_active_server_out_of_several() {
    let around = Around::start(Options::default()).await;
    let config = around.config("");
    let good = std::fs::read_to_string(&config).unwrap();
    let mut service = Service::start(&config).await;
    let url = format!("url = \"{}\"", around.electric.url());
    let dead = impatient(&good).replace(&url, "urls = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]");
    std::fs::write(&config, dead).unwrap();
    service.signal(Signal::USR2);
    let failed = service.line("upgrade failed").await;
    assert!(failed["message"].as_str().unwrap().contains("exit status"), "{failed}");
    assert_eq!(status(&service.url, &around.token(1)).await, 200);
    let one = good.replace(&url, &format!("urls = [\"{}\", \"http://127.0.0.1:2\"]", around.electric.url()));
    std::fs::write(&config, one).unwrap();
    service.upgrade().await;
    // The unreachable server gets no shapes from the start, so every shape is served.
    for org in 0..8 {
        let token = around.issuer.token(&json!({ "sub": "user-1", "organizationIds": [format!("org_{org}")] }));
        let mut wire = Wire::open(&service.url).await;
        wire.send(&request(&TASKS.replace("org_1", &format!("org_{org}")), &token)).await;
        assert_eq!(wire.answer(false).await.unwrap().status, 200, "org_{org}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connection_does_not_delay_shutdown() {
    let around = Around::start(Options::default()).await;
    for h2c in [false, true] {
        let mut service = Service::start(&around.config(&format!("drain = \"55s\"\nh2c = {h2c}"))).await;
        let silent = Wire::open(&service.url).await;
        // The silent connection has been accepted once a later one is answered.
        assert_eq!(status(&service.url, &around.token(1)).await, 200);
        service.signal(Signal::TERM);
        let ended = tokio::time::timeout(Duration::from_secs(20), service.first_ended()).await;
        assert_eq!(ended.expect("it waits for the whole drain time").code(), Some(0), "h2c = {h2c}");
        assert_eq!(silent.rest().await, "");
    }
}
