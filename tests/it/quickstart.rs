//! Every command in README.md and docs/quickstart.md is run: those of the quickstart here, in their order; those of the
//! README by the script or test that the list names.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shapegate::demo::electric::{Column, Electric, Options};
use tokio::process::Command;

use crate::harness::{IssuerServer, Process, SECRET};

/// The commands of README.md, and the file that runs each, with the text in it that does.
const README: [(&str, &str, &str); 6] = [
    (".ci/setup-build && cargo run -- demo", ".ci/first-minutes", "\".ci/setup-build && cargo run -- demo\")"),
    (".ci/setup-build", ".ci/setup-test", "\n.ci/setup-build\n"),
    (".ci/test", ".ci/run", "step test .ci/test\n"),
    ("cargo run -- demo --electric URL", "tests/it/browser/demo.rs", "Demo::start(&[\"--electric\", &electric.url()])"),
    ("shapegate init", "tests/it/shell.rs", "[\"init\", file, \"--electric\","),
    (
        "cargo bench --bench load",
        ".ci/run",
        "step benches cargo test --locked --bench verify --bench authorize --bench limits --bench rewrite --bench load\n",
    ),
];

/// What each command of docs/quickstart.md prints, by its beginning.
const QUICKSTART: [(&str, &str); 6] = [
    ("shapegate check --config shapegate.toml --probe", "ok"),
    ("shapegate check --config shapegate.toml", "1 rule, 1 issuer"),
    ("shapegate explain --config shapegate.toml --token", "decision: allow"),
    ("shapegate --config shapegate.toml", ""),
    ("curl -s 127.0.0.1:9090/readyz", "\"ready\":true"),
    ("curl -s 'http://127.0.0.1:8080/v1/shape", "Buy milk"),
];

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Returns the lines of indented blocks, outside fences.
fn indented(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2).flat_map(str::lines);
    prose.filter_map(|line| line.strip_prefix("    ")).collect()
}

#[test]
fn every_command_of_the_readme_is_run_by_a_script_or_test() {
    let text = page("README.md");
    let is_command =
        |code: &&str| [".ci/", "cargo ", "shapegate ", "curl ", "docker "].iter().any(|start| code.starts_with(start));
    let prose: String = text.split("```").step_by(2).collect();
    let inline = prose.split('`').skip(1).step_by(2).filter(is_command);
    let blocks: Vec<_> =
        text.split("```sh\n").skip(1).flat_map(|rest| rest.split("```").next().unwrap().lines()).collect();
    // The picture at the top is no command.
    let indented = indented(&text).into_iter().filter(|line| !line.contains("──▶"));
    let found: BTreeSet<_> = inline.chain(indented).chain(blocks).collect();
    assert_eq!(found, README.iter().map(|(command, ..)| *command).collect(), "each command needs a place that runs it");
    for (command, file, run) in README {
        assert!(page(file).contains(run), "{command}: {file} does not run it");
    }
}

/// Runs a line as a shell does, in `folder`, and returns what it prints.
async fn run(line: &str, folder: &Path, token: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_shapegate")).parent().unwrap().to_str().unwrap();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", line]).current_dir(folder).env("PATH", path).env("ELECTRIC_SECRET", SECRET).env("TOKEN", token);
    let output = shell.output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{line}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_quickstart_does_what_the_page_says() {
    let electric = Electric::start(Options { secret: SECRET.to_owned(), ..Options::default() }).await.unwrap();
    let id = Column::new("id", "int4").not_null().primary_key(0);
    electric.create_table("tasks", vec![id, Column::new("user_id", "text"), Column::new("title", "text")]);
    electric.insert("tasks", json!({ "id": "1", "user_id": "user-1", "title": "Buy milk" })).unwrap();
    let issuer = IssuerServer::start().await;
    let text = page("docs/quickstart.md");
    let (_, config) = text.split_once("```toml\n").unwrap();
    // The same configuration with this test's addresses and the algorithm of its issuer.
    let config = config.split("```").next().unwrap();
    let replaced = [
        ("listen = \"127.0.0.1:8080\"", "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"".to_owned()),
        ("http://127.0.0.1:3000", electric.url()),
        ("https://auth.example.com/.well-known/jwks.json", format!("{}/jwks", issuer.url())),
        ("https://auth.example.com", issuer.url().to_owned()),
        ("[\"ES256\", \"RS256\"]", "[\"EdDSA\"]".to_owned()),
    ];
    let config = replaced.iter().fold(config.to_owned(), |config, (old, new)| {
        assert!(config.contains(old), "{old}");
        config.replace(old, new)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shapegate.toml");
    std::fs::write(&file, config + "\n[log]\nformat = \"json\"\n").unwrap();
    let token = issuer.keys.sign(&crate::harness::with_defaults(
        issuer.url(),
        &json!({ "sub": "user-1", "aud": "https://app.example.com" }),
    ));

    let mut process: Option<Process> = None;
    let mut left: BTreeSet<_> = QUICKSTART.iter().map(|(start, _)| *start).collect();
    for line in indented(&text) {
        if line == "export ELECTRIC_SECRET=…" {
            continue;
        }
        let (start, words) =
            QUICKSTART.iter().find(|(start, _)| line.starts_with(start)).unwrap_or_else(|| panic!("not run: {line}"));
        left.remove(start);
        if line == "shapegate --config shapegate.toml" {
            process = Some(Process::start(&file).await);
            continue;
        }
        let bare = |url: &str| url.trim_start_matches("http://").to_owned();
        let (url, admin) =
            process.as_ref().map(|process| (bare(&process.url), bare(&process.admin))).unwrap_or_default();
        let line = line.replace("127.0.0.1:8080", &url).replace("127.0.0.1:9090", &admin);
        let mut said = run(&line, folder.path(), &token).await;
        // The page says that it is not ready until the key set is there.
        while line.contains("/readyz") && !said.contains(words) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            said = run(&line, folder.path(), &token).await;
        }
        assert!(said.contains(words), "{line}: {said}");
    }
    assert!(left.is_empty(), "no longer on the page: {left:?}");
}
