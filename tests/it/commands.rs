//! The commands for people who write rules: `explain` without a token, `test` and `token`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{IssuerServer, Process, config, shapegate};

const OWN: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Runs a command without any secret. Returns its exit code and what it printed, errors last.
async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = shapegate(arguments).env_remove("ELECTRIC_SECRET").output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_judges_claims_without_token_keys_and_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let gatekeeper = "\n[gatekeeper]\nissuer = 'https://shapes.test'\naudience = 'a'\n\
                      signing_key = { file = 'no-such.pem' }\npublic_url = 'https://sync.test/v1/shape'\n";
    let text = std::fs::read_to_string(&path).unwrap().replacen("[[shape]]", "[[shape]]\nsubset = true", 1);
    std::fs::write(&path, text + gatekeeper).unwrap();
    let claims = written(folder.path(), "claims.json", r#"{"sub": "user-1", "organizationIds": ["org_1"]}"#);
    let claims = format!("@{}", claims.display());
    let explain = async |more: &[&str]| {
        run(&[&["explain", "-c", path.to_str().unwrap(), "--claims", &claims], more].concat()).await
    };
    let (code, words) = explain(&[OWN]).await;
    assert_eq!(code, Some(0), "{words}");
    for part in ["subject user-1", "rule:     tasks (line 14)", "params%5B1%5D=org_1", "shape:    ", "decision: allow"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
    let (code, words) = explain(&[&OWN.replace("org_1", "org_3")]).await;
    assert_eq!(code, Some(1), "{words}");
    let tried =
        r#"tasks (line 14): allow is false: query.organizationId = "org_3", claims.organizationIds = ["org_1"]"#;
    assert!(words.contains(&format!("tried:    {tried}\nreason:   allow_false\ndecision: deny, forbidden")), "{words}");
    let (code, words) = explain(&["--body", r#"{"limit":1,"order_by":"id"}"#, OWN]).await;
    assert!(code == Some(0) && words.contains("POST {\"subset\""), "{words}");
    let (code, words) = explain(&["--method", "POST", "/gatekeeper/tasks?organizationId=org_1"]).await;
    assert!(code == Some(0) && words.contains("decision: allow, minted"), "{words}");
    let (code, words) = explain(&["--method", "DELETE", OWN]).await;
    assert!(code == Some(1) && words.contains("reason:   method\n"), "{words}");
    let (code, words) = explain(&["--token", "x", OWN]).await;
    assert_eq!(code, Some(64), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_values_that_each_rule_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let rules = r#"
[[shape]]
name = "mine"
table = "notes"
where = '"user_id" = {{ claims.user }} AND "team" IN ({{ claims.teams }})'

[[shape]]
table = "notes"
allow = "claims.admin"
where = "none"
upstream = { claim = "claims.region", map = { eu = "default" } }
"#;
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().count() + 2;
    std::fs::write(&path, format!("{text}{rules}")).unwrap();
    for (claims, tried, reason) in [
        (
            r#"{"user": "a"}"#,
            ["a value of where cannot be bound: claims.teams is missing", "allow fails: claims.admin is missing"],
            "allow_error",
        ),
        (
            r#"{"user": ["a"], "teams": [], "admin": true, "region": "us"}"#,
            [
                r#"a value of where cannot be bound: claims.user = ["a"], claims.teams = []"#,
                r#"the claim of upstream picks none of its map: claims.region = "us""#,
            ],
            "upstream_unbound",
        ),
        (
            r#"{"admin": "yes"}"#,
            [
                "a value of where cannot be bound: claims.user is missing, claims.teams is missing",
                r#"allow fails: claims.admin = "yes""#,
            ],
            "allow_error",
        ),
    ] {
        let arguments =
            ["explain", "--config", path.to_str().unwrap(), "--claims", claims, "/v1/shape?table=notes&offset=-1"];
        let (code, words) = run(&arguments).await;
        let first = format!("tried:    mine (notes) (line {line}): {}\n", tried[0]);
        let second = format!("tried:    notes#2 (line {}): {}\nreason:   {reason}\n", line + 5, tried[1]);
        assert!(code == Some(1) && words.contains(&(first + &second)), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_decides_at_the_given_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let claims = r#"{"exp": 1767225600, "iat": 1767222000, "organizationIds": ["org_1"]}"#;
    let explain = async |now: &str| {
        run(&["explain", "--config", path.to_str().unwrap(), "--claims", claims, "--now", now, OWN]).await
    };
    assert_eq!(explain("2025-12-31T23:59:59Z").await.0, Some(0));
    let (code, words) = explain("1767225700").await;
    let why = "the token is rejected: expired: exp is 1767225600; the time is 1767225700";
    assert!(code == Some(1) && words.contains(why), "{words}");
    assert_eq!(explain("noon").await.0, Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_what_a_token_has_and_what_its_issuer_takes() {
    let issuer = IssuerServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "http://127.0.0.1:3000", issuer.url());
    let explain = async |claims: serde_json::Value| {
        let token = issuer.token(&claims);
        let arguments = ["explain", "--config", path.to_str().unwrap(), "--token", &token, OWN];
        let output = shapegate(&arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let words = explain(json!({ "aud": ["x"] })).await;
    assert!(words.contains(r#"audience: aud is ["x"]; this issuer takes "https://app.test""#), "{words}");
    let words = explain(json!({ "iss": "https://other.test" })).await;
    let expected = format!("issuer: iss is \"https://other.test\"; the issuers are \"{}\"", issuer.url());
    assert!(words.contains(&expected), "{words}");
    issuer.keys.rotate().unwrap();
    let words = explain(json!({})).await;
    assert!(words.contains("tried") || words.contains("allow_error"), "{words}");
    // An unreachable key set is named with its URL and the error.
    issuer.set_up(false);
    let words = explain(json!({})).await;
    assert!(words.contains(&format!("keys_unavailable: {}/jwks: ", issuer.url())), "{words}");
    assert!(words.contains("reason:   keys_unavailable\n"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_tests_of_the_real_configuration_pass() {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/superset.test.toml");
    let (code, words) = run(&["test", conf]).await;
    // Each of the 25 tables is allowed and denied: there is no warning.
    assert_eq!((code, words.as_str()), (Some(0), "57 passed, 0 failed\n"));
}

/// Tests of the rules of [`config`], one of which fails in three ways.
const CASES: &str = r#"
config = "shapegate.toml"

[[case]]
name = "own <rows>"
query = "table=tasks&organizationId=org_1"
claims = { organizationIds = ["org_1"] }
allow = { rule = "tasks", table = "tasks", where = '"organization_id" = $1', params = ["org_1"] }

[[case]]
query = "table=tasks&organizationId=org_2"
claims = { organizationIds = ["org_1"] }
deny = { code = "forbidden", reason = "allow_false", rule = "tasks" }

[[case]]
name = "columns"
url = "/api/items?offset=-1"
claims = { roles = ["admin"] }
allow = { where = "none", columns = ["id", "title"] }
"#;

const WRONG: &str = r#"
[[case]]
name = "wrong"
query = "table=tasks&organizationId=org_1"
claims = { organizationIds = ["org_1"] }
allow = { where = '"org" = $1', params = ["org_2"] }

[[case]]
name = "denied, not allowed"
query = "table=tasks&organizationId=org_2"
claims = { organizationIds = ["org_1"] }
allow = true

[[case]]
name = "allowed, not denied"
query = "table=tasks&organizationId=org_1"
claims = { organizationIds = ["org_1"] }
deny = true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn failed_policy_tests_show_what_was_expected_and_found() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let good = written(folder.path(), "good.toml", CASES);
    let (code, words) = run(&["test", good.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{words}");
    // The admin's rule is never denied.
    let warnings: Vec<_> = words.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].ends_with("the rule /api/items (items) denies no case"), "{words}");

    let bad = written(folder.path(), "bad.toml", &format!("{CASES}{WRONG}"));
    let junit = folder.path().join("junit.xml");
    let (code, words) = run(&["test", bad.to_str().unwrap(), "--junit", junit.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{words}");
    for part in [
        "bad.toml:21: wrong\n  where       expected  \"org\" = $1\n              found     \"organization_id\" = $1\n",
        "  params      expected  [\"org_2\"]\n              found     [\"org_1\"]\n",
        "denied, not allowed\n  decision    expected  allow\n              found     deny, forbidden, allow_false\n",
        "tried tasks (line 14): allow is false: query.organizationId = \"org_2\"",
        "allowed, not denied\n  decision    expected  deny\n              found     allow by rule tasks\n",
        "3 passed, 3 failed\n",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let xml = std::fs::read_to_string(junit).unwrap();
    assert!(xml.contains("tests=\"6\" failures=\"3\"") && xml.contains("own &lt;rows&gt;"), "{xml}");
    assert!(xml.contains("&quot;org&quot; = $1"), "{xml}");

    // Another configuration, and files that cannot be used.
    let other = config(folder.path(), "http://127.0.0.1:3001", "http://127.0.0.1:1");
    let moved = written(tempfile::tempdir().unwrap().keep().as_path(), "good.toml", CASES);
    assert_eq!(run(&["test", moved.to_str().unwrap()]).await.0, Some(64));
    let (code, words) = run(&["test", moved.to_str().unwrap(), "--config", other.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{words}");
    std::fs::remove_dir_all(moved.parent().unwrap()).unwrap();
    let typo = written(folder.path(), "typo.toml", &CASES.replace("allow = {", "alow = {"));
    let (code, words) = run(&["test", typo.to_str().unwrap()]).await;
    assert!(code == Some(64) && words.contains("typo.toml") && words.contains("alow"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn development_tokens_are_accepted_and_their_key_is_recognized() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("dev.key");
    let key = key.to_str().unwrap();
    let (code, issuer) = run(&["token", "--key", key]).await;
    assert_eq!(code, Some(0), "{issuer}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read_to_string(key).unwrap();
    let (code, token) = run(&["token", "--key", key, "--claims", r#"{"organizationIds":["org_1"]}"#]).await;
    assert!(code == Some(0) && !issuer.contains(secret.trim()) && token.lines().count() == 1, "{token}");

    let path = config(folder.path(), "http://127.0.0.1:3000", "http://127.0.0.1:1");
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find("[[issuer]]").unwrap();
    let end = text.find("[[shape]]").unwrap();
    std::fs::write(&path, format!("{}{issuer}\n{}", &text[..start], &text[end..])).unwrap();
    let arguments = ["explain", "--config", path.to_str().unwrap(), "--token", token.trim(), OWN];
    let explained = shapegate(&arguments).output().await.unwrap();
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    // A server with the key runs, and its log warns about it.
    let text = std::fs::read_to_string(&path).unwrap();
    let json = written(folder.path(), "json.toml", &format!("{text}\n[log]\nformat = \"json\"\n"));
    let log = Process::start(&json).await.stop().await;
    assert!(log.iter().any(|line| line.contains("for development only")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains(secret.trim())));

    // `check` warns too, and `--strict` refuses it; another secret causes neither.
    let file = path.to_str().unwrap();
    let run_check = async |more: &[&str]| {
        let output = shapegate(&[&["check"], more].concat()).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, words) = run_check(&[file]).await;
    assert!(code == Some(0) && words.contains("warning: issuer[0].hs256.file: a key of `shapegate token`"), "{words}");
    let (code, words) = run_check(&["--strict", file]).await;
    assert!(code == Some(64) && words.contains("issuer[0].hs256"), "{words}");
    let own = written(folder.path(), "own.key", "0123456789abcdef-of-our-own-89abcdef");
    std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let own = written(folder.path(), "own.toml", &text.replace(key, own.to_str().unwrap()));
    let (code, words) = run_check(&["--strict", own.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{words}");

    // Another key signs for nobody else, and a file that others can read is not used.
    let other = folder.path().join("other.key");
    let (_, foreign) = run(&["token", "--key", other.to_str().unwrap(), "--claims", "{}"]).await;
    let arguments = ["explain", "--config", path.to_str().unwrap(), "--token", foreign.trim(), OWN];
    let denied = shapegate(&arguments).output().await.unwrap();
    assert!(String::from_utf8(denied.stdout).unwrap().contains("reason:   signature\n"));
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, words) = run(&["token", "--key", other.to_str().unwrap(), "--claims", "{}"]).await;
    assert!(code == Some(1) && words.contains("chmod 600"), "{words}");
    let text = written(folder.path(), "text", "not a key");
    std::fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (code, words) = run(&["token", "--key", text.to_str().unwrap()]).await;
    assert!(code == Some(1) && words.contains("not a development key") && !words.contains("not a key"), "{words}");
}
