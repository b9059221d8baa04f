//! The command line: check, explain with a token, jwks, demo, and running the server.

use std::process::{Output, Stdio};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::{Answer, Gate, IssuerServer, SECRET, config, shapegate};

async fn output(arguments: &[&str]) -> Output {
    shapegate(arguments).output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn help_fits_one_screen_and_wrong_usage_exits_with_64() {
    let help = output(&["-h"]).await;
    assert!(help.status.success());
    assert!(text(&help.stdout).lines().count() <= 24, "{}", text(&help.stdout));
    for wrong in [&["--nonsense"][..], &[], &["check"], &["explain", "--config"]] {
        let wrong = output(wrong).await;
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(64), 0), "{}", text(&wrong.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_lists_every_error_and_prints_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let good = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let ok = output(&["check", "--config", good.to_str().unwrap()]).await;
    assert_eq!(ok.status.code(), Some(0), "{}", text(&ok.stderr));
    assert!(text(&ok.stdout).contains("2 rules"), "{}", text(&ok.stdout));
    assert!(ok.stderr.is_empty(), "{}", text(&ok.stderr));
    let slow = folder.path().join("slow.toml");
    let predicate = "where = '\"organization_id\" LIKE {{ claims.sub }}'";
    let original = std::fs::read_to_string(&good).unwrap();
    std::fs::write(&slow, original.replace("where = \"none\"", predicate)).unwrap();
    let warned = output(&["check", "--config", slow.to_str().unwrap()]).await;
    let warning = text(&warned.stderr);
    assert_eq!(warned.status.code(), Some(0), "{warning}");
    assert!(warning.starts_with("warning: shape[1].where: ") && warning.contains("slow.toml:"), "{warning}");
    assert_eq!(warning.matches("warning:").count(), 1, "{warning}");
    let strict = output(&["check", "--strict", slow.to_str().unwrap()]).await;
    assert_eq!((strict.status.code(), strict.stdout.len()), (Some(64), 0));
    assert!(text(&strict.stderr).starts_with(&warning), "{}", text(&strict.stderr));
    let json = output(&["check", "--format", "json", "-c", slow.to_str().unwrap()]).await;
    let list: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), json.stderr.len(), list.as_array().unwrap().len()), (Some(0), 0, 1));
    assert_eq!((&list[0]["severity"], &list[0]["key"]), (&json!("warning"), &json!("shape[1].where")));
    let line = original.lines().position(|line| line == "where = \"none\"").unwrap() + 1;
    assert_eq!((&list[0]["line"], &list[0]["columns"]["start"]), (&json!(line), &json!(9)));
    let broken = std::fs::read_to_string(&good)
        .unwrap()
        .replace("where = \"none\"", "where = ''")
        .replace("[server]", "[server]\nlisen = 1");
    std::fs::write(&good, broken).unwrap();
    let bad = output(&["check", "--config", good.to_str().unwrap()]).await;
    let errors = text(&bad.stderr);
    assert_eq!((bad.status.code(), bad.stdout.len()), (Some(64), 0));
    assert!(errors.contains("shapegate.toml:3:") && errors.contains("lisen"), "{errors}");
    assert!(errors.contains("where") && errors.contains("none"), "{errors}");
    assert!(!errors.contains(SECRET));
    let run = output(&["--config", good.to_str().unwrap()]).await;
    assert_eq!((run.status.code(), text(&run.stderr).trim()), (Some(64), errors.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_probe_asks_electric_for_each_rule() {
    let gate = Gate::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let path = path.to_str().unwrap();
    let probe = output(&["check", "--config", path, "--probe", "--query", "organizationId=org_1"]).await;
    assert_eq!(probe.status.code(), Some(0), "{}{}", text(&probe.stdout), text(&probe.stderr));
    assert!(text(&probe.stdout).contains("tasks: ok") && text(&probe.stdout).contains("/api/items: ok"));
    // One of them is without a table: it checks the secret.
    assert_eq!(gate.electric.request_count(), 3);
    let lacking = output(&["check", "--config", path, "--probe"]).await;
    assert_eq!(lacking.status.code(), Some(1));
    assert!(text(&lacking.stdout).contains("tasks: not probed"), "{}", text(&lacking.stdout));
    let wrong = std::fs::read_to_string(path).unwrap().replace("\"organization_id\"", "\"organisation\"");
    std::fs::write(path, wrong).unwrap();
    let refused = output(&["check", "--config", path, "--probe", "--query", "organizationId=org_1"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains("unknown reference organisation"), "{}", text(&refused.stdout));
    assert!(!text(&refused.stdout).contains(SECRET) && !text(&refused.stderr).contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_probe_takes_sample_values_from_the_configuration_or_a_file() {
    let gate = Gate::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let plain = std::fs::read_to_string(&path).unwrap();
    let rule = plain.replace("{{ query.organizationId }}", "{{ claims.org.ids[0] }}");
    std::fs::write(&path, format!("{rule}\n[probe]\nclaims = {{ org = {{ ids = [7, 1.5, true] }} }}\n")).unwrap();
    let path = path.to_str().unwrap();
    let probe = output(&["check", "--config", path, "--probe"]).await;
    let issuer = format!("issuer {}: ok, 1 key", gate.issuer.url());
    let electric = format!("Electric default ({}): ok", gate.electric.url());
    let lines = [&issuer, &electric, "tasks: ok", "/api/items: ok"];
    assert_eq!(text(&probe.stdout).lines().skip(1).collect::<Vec<_>>(), lines);
    let asked = |at: usize| gate.electric.requests()[at].target.clone();
    assert!(asked(1).contains("params%5B1%5D=7&log=changes_only&offset=now"), "{}", asked(1));
    // Values on the command line take precedence.
    let claims = folder.path().join("claims.json");
    std::fs::write(&claims, r#"{ "org": { "ids": ["other"] } }"#).unwrap();
    let given = format!("@{}", claims.display());
    let probe = output(&["check", "--config", path, "--probe", "--claims", &given]).await;
    assert_eq!(probe.status.code(), Some(0), "{}", text(&probe.stdout));
    assert!(asked(4).contains("params%5B1%5D=other"), "{}", asked(4));
    for wrong in [&["--claims", "@/no/such"][..], &["--claims", "[]"], &["--query", "where=true"]] {
        let wrong = output(&[&["check", "--config", path, "--probe"], wrong].concat()).await;
        assert_ne!(wrong.status.code(), Some(0), "{}", text(&wrong.stdout));
    }
    assert_eq!(gate.electric.request_count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_probe_prints_errors_of_electric_without_the_secret() {
    let gate = Gate::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let words = format!(r#"{{"message":"not with {SECRET}"}}"#);
    // The first request checks the secret.
    gate.electric.script(shapegate::demo::http::Reply::json(400, "{}"));
    gate.electric.script(shapegate::demo::http::Reply::json(401, words));
    let arguments = ["check", "--config", path.to_str().unwrap(), "--probe", "--query", "organizationId=org_1"];
    let refused = output(&arguments).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains(r#"tasks: Electric answers 401: {"message":"not with …"}"#));
    assert!(text(&refused.stdout).contains("/api/items: ok"), "{}", text(&refused.stdout));
    let nobody = std::fs::read_to_string(&path).unwrap().replace(&gate.electric.url(), "http://127.0.0.1:1");
    std::fs::write(&path, nobody).unwrap();
    let unreachable = output(&arguments).await;
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(text(&unreachable.stdout).contains("1): is unreachable\n"), "{}", text(&unreachable.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_probe_names_a_wrong_secret_and_an_unreachable_key_set() {
    let gate = Gate::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let arguments = ["check", "--config", path.to_str().unwrap(), "--probe", "--query", "organizationId=org_1"];
    gate.electric.set_secret("another");
    gate.issuer.set_up(false);
    let wrong = output(&arguments).await;
    let words = text(&wrong.stdout);
    assert_eq!(wrong.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("issuer {0}: {0}/jwks: ", gate.issuer.url())), "{words}");
    assert!(
        words.contains(&format!("Electric default ({}): rejects upstream.secret\n", gate.electric.url())),
        "{words}"
    );
    // It is not the rules' fault, so they are not asked about.
    assert!(!words.contains("tasks") && !words.contains(SECRET), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_prints_the_decision_and_its_reason() {
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", issuer.url());
    let path = path.to_str().unwrap();
    let token = issuer.token(&json!({ "sub": "user-1", "organizationIds": ["org_1"] }));
    let url = "https://sync.test/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let allowed = output(&["explain", "--config", path, "--token", &token, url]).await;
    let words = text(&allowed.stdout);
    assert_eq!(allowed.status.code(), Some(0), "{words}{}", text(&allowed.stderr));
    for part in ["decision: allow", "rule:     tasks", "params%5B1%5D=org_1", "secret=…", "user-1"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains(SECRET) && !words.contains(&token));
    let open = std::fs::read_to_string(path).unwrap();
    let open = open.replacen("[[shape]]", "[[shape]]\nsubset = true\nclient_where = true", 1);
    std::fs::write(folder.path().join("open.toml"), open).unwrap();
    let open = folder.path().join("open.toml");
    let narrowed = format!("{url}&where=title='x'&subset__order_by=title&subset__limit=2");
    let allowed = output(&["explain", "--config", open.to_str().unwrap(), "--token", &token, &narrowed]).await;
    let words = text(&allowed.stdout);
    let subset = r#"POST {"subset":{"limit":2,"order_by":"\"title\" ASC"}}"#;
    for part in ["client:   its where", subset, "not shared", "decision: allow"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    for (url, token, why) in [
        ("/v1/shape?table=tasks&organizationId=org_2&offset=-1", &*token, "forbidden"),
        ("/v1/shape?table=secrets&offset=-1", &token, "shape_not_found"),
        ("/v1/shape?table=tasks&organizationId=org_1&offset=-1&where=true", &token, "reserved"),
        ("/other", &token, "not_found"),
        ("/v1/shape?table=tasks&offset=-1", "a.b.c", "the token is rejected"),
    ] {
        let denied = output(&["explain", "--config", path, "--token", token, url]).await;
        assert_eq!(denied.status.code(), Some(1));
        assert!(
            text(&denied.stdout).contains("decision: deny") && text(&denied.stdout).contains(why),
            "{}",
            text(&denied.stdout)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_upstream_and_server_of_a_shape() {
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", issuer.url());
    let text = std::fs::read_to_string(&path).unwrap();
    let rule = "[[shape]]\ntable = 'invoices'\nwhere = 'none'\n\
                upstream = { claim = 'claims.tenant', map = { acme = 'acme-db' } }\n";
    let acme = "[upstreams.acme-db]\nurls = ['http://127.0.0.1:1', 'http://127.0.0.1:2']\n\
                danger_no_secret = true\nsource_id = 'acme'\n";
    std::fs::write(&path, format!("{text}\n{rule}{acme}")).unwrap();
    let explain = async |table: &str, claims: serde_json::Value| {
        let token = issuer.token(&claims);
        let url = format!("/v1/shape?table={table}&organizationId=org_1&offset=-1");
        let explained = output(&["explain", "--config", path.to_str().unwrap(), "--token", &token, &url]).await;
        (explained.status.code(), text_of(&explained))
    };
    let (code, invoices) = explain("invoices", json!({ "tenant": "acme" })).await;
    assert_eq!(code, Some(0), "{invoices}");
    let electric = invoices.lines().find(|line| line.starts_with("electric: ")).unwrap();
    assert!(electric.starts_with("electric: acme-db, http://127.0.0.1:") && electric.ends_with(" of 2"), "{electric}");
    assert!(invoices.contains("&source_id=acme\n"), "{invoices}");
    let (code, tasks) = explain("tasks", json!({ "organizationIds": ["org_1"] })).await;
    assert_eq!(code, Some(0), "{tasks}");
    assert!(tasks.contains("electric: default, http://127.0.0.1:3000\n") && tasks.contains("&secret=…\n"), "{tasks}");
    let (code, denied) = explain("invoices", json!({ "tenant": "other" })).await;
    assert_eq!(code, Some(1), "{denied}");
    assert!(denied.contains("deny, forbidden"), "{denied}");
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn jwks_writes_a_static_key_set() {
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", issuer.url());
    let out = folder.path().join("keys.json");
    // `jwks` works before the file exists and without the secrets, as in a deploy step.
    let both = std::fs::read_to_string(&path).unwrap().replace("jwks = { ", "jwks = { file = \"keys.json\", ");
    std::fs::write(&path, both).unwrap();
    let mut jwks = shapegate(&["jwks", "--config", path.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let fetched = jwks.env_remove("ELECTRIC_SECRET").output().await.unwrap();
    assert_eq!(fetched.status.code(), Some(0), "{}", text(&fetched.stderr));
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(&out).unwrap()).unwrap()["keys"][0]["kid"],
        "key-1"
    );
    // The file works as `jwks.file` while the issuer is down.
    issuer.set_up(false);
    let fixed = std::fs::read_to_string(&path).unwrap().replace(&format!(", url = \"{}/jwks\"", issuer.url()), "");
    std::fs::write(&path, fixed).unwrap();
    let token = issuer.token(&json!({ "organizationIds": ["org_1"] }));
    let url = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
    let allowed = output(&["explain", "--config", path.to_str().unwrap(), "--token", &token, url]).await;
    assert_eq!(allowed.status.code(), Some(0), "{}", text(&allowed.stdout));
    let down = config(folder.path(), "http://127.0.0.1:3000", issuer.url());
    let failed = output(&["jwks", "--config", down.to_str().unwrap(), "--out", out.to_str().unwrap()]).await;
    assert_eq!(failed.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn port_in_use_is_an_error_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let address = taken.local_addr().unwrap().to_string();
    let text_of = std::fs::read_to_string(&path).unwrap().replacen("127.0.0.1:0", &address, 1);
    std::fs::write(&path, text_of).unwrap();
    let failed = output(&["--config", path.to_str().unwrap()]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains(&format!("cannot listen on {address}")), "{}", text(&failed.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_warns_if_limits_exceed_the_open_file_limit() {
    // The port is in use, so that the process ends at once.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let text_of = std::fs::read_to_string(&path).unwrap();
    let text_of = text_of.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1);
    for (limits, warned) in [("", true), ("[limits]\nconnections = 300\nflights = 300\n", false)] {
        std::fs::write(&path, format!("{text_of}\n{limits}")).unwrap();
        let program = shapegate(&["--config", path.to_str().unwrap()]);
        let mut command = Command::new("prlimit");
        command.arg("--nofile=700").arg(program.as_std().get_program()).args(program.as_std().get_args());
        command.envs(program.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = text(&command.output().await.unwrap().stderr);
        assert!(log.contains("cannot listen on"), "{log}");
        assert_eq!(log.contains("the open file limit is lower than `limits` may need"), warned, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_curl_commands_work_as_printed() {
    let mut child =
        shapegate(&["demo", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut commands, mut page) = (Vec::new(), String::new());
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(url) = line.trim().strip_prefix("page: ") {
            page = url.trim().to_owned();
        }
        if line.trim_start().starts_with("curl ") {
            commands.push(line.trim().to_owned());
        }
        if commands.len() == 5 {
            break;
        }
    }
    let mut answers = Vec::new();
    for command in &commands {
        let output = Command::new("sh").args(["-c", command]).output().await.unwrap();
        answers.push(text(&output.stdout));
    }
    assert!(answers[0].contains("org-1") && !answers[0].contains("org-2"), "{}", answers[0]);
    assert!(answers[1].contains("org-2") && !answers[1].contains("org-1"), "{}", answers[1]);
    assert!(answers[2].contains("403") && answers[2].contains("forbidden"), "{}", answers[2]);
    assert!(answers[3].contains("401") && answers[3].contains("token_missing"), "{}", answers[3]);
    // One row: the poll has waited for it at the end of the log.
    let rows = answers[4].matches("\"insert\"").count();
    assert!(answers[4].contains("electric-cursor") && rows == 1, "{}", answers[4]);
    let page = Answer::of(reqwest::get(&page).await.unwrap()).await;
    assert!(page.text().contains("<title>shapegate demo</title>") && !page.text().contains("{{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_process_with_exit_code_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let mut child = shapegate(&["--config", path.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("serving") {}
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_start_show_where_a_certificate_or_a_folder_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let good = std::fs::read_to_string(&path).unwrap();
    let pair = rcgen::generate_simple_self_signed(["sync.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["sync.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), pair.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), other.signing_key.serialize_pem()).unwrap();
    for (lines, key, marked) in [
        ("tls = { cert = \"missing.crt\", key = \"missing.key\" }", "server.tls.cert", "\"missing.crt\""),
        ("tls.cert = \"tls.crt\"\ntls.key = \"missing.key\"", "server.tls.key", "\"missing.key\""),
        ("tls = { cert = \"tls.crt\", key = \"tls.key\" }", "server.tls", "tls"),
        ("upgrade_socket = \"missing/upgrade.sock\"", "server.upgrade_socket", "\"missing/upgrade.sock\""),
    ] {
        std::fs::write(&path, good.replace("[server]", &format!("[server]\n{lines}"))).unwrap();
        let line = lines.lines().find(|line| line.contains(marked)).unwrap();
        let number = 3 + lines.lines().position(|other| other == line).unwrap();
        let (column, path) = (line.find(marked).unwrap(), path.to_str().unwrap());
        let quoted = format!(
            " --> {path}:{number}:{}\n  |\n{number} | {line}\n  | {}{}\n",
            column + 1,
            " ".repeat(column),
            "^".repeat(marked.len())
        );
        for arguments in [&["check", "--config", path][..], &["--config", path]] {
            let failed = output(arguments).await;
            let words = text(&failed.stderr);
            assert_eq!(failed.status.code(), Some(64), "{words}");
            assert!(words.contains(&format!("error: {key}: ")) && words.contains(&quoted), "{words}\n{quoted}");
        }
    }
}
