//! What the program offers to shells, editors, packages and beginners.

use std::path::Path;
use std::process::Output;

use tokio::process::Command;

use crate::harness::shapegate;

async fn output(arguments: &[&str]) -> Output {
    shapegate(arguments).output().await.unwrap()
}

async fn printed(arguments: &[&str]) -> String {
    let output = output(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn place(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_in_conf_is_current_and_named_by_each_file() {
    let current = printed(&["schema"]).await;
    let written = std::fs::read_to_string(place("conf/shapegate.schema.json")).unwrap();
    assert!(written == current, "run: cargo run -- schema >conf/shapegate.schema.json");
    for file in std::fs::read_dir(place("conf")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        // `….test.toml` has policy tests.
        if name.ends_with(".toml") && !name.ends_with(".test.toml") {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("#:schema ./shapegate.schema.json\n"), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_reference_is_current() {
    let written = std::fs::read_to_string(place("docs/configuration.md")).unwrap();
    assert!(
        printed(&["schema", "--markdown"]).await == written,
        "run: cargo run -- schema --markdown >docs/configuration.md"
    );
    for words in ["| `drain` | duration | `\"25s\"` | 0s to 1h |", "| `listen` | list of text | required |"] {
        assert!(written.contains(words), "{words}");
    }
}

/// Runs taplo, with which editors check TOML.
async fn taplo(folder: &Path, files: &[&str]) -> Output {
    let program = place("tests/clients/node_modules/.bin/taplo");
    Command::new(program).arg("check").args(files).current_dir(folder).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_accept_the_sample_files_and_find_mistakes() {
    let samples = ["shapegate.full.toml", "shapegate.minimal.toml", "superset.toml"];
    let checked = taplo(&place("conf"), &samples).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(place("conf/shapegate.schema.json"), folder.path().join("shapegate.schema.json")).unwrap();
    let wrong = "#:schema ./shapegate.schema.json\n[server]\ndrian = '25s'\ndrain = 25\n[log]\nformat = 'texts'\n";
    std::fs::write(folder.path().join("wrong.toml"), wrong).unwrap();
    let checked = taplo(folder.path(), &["wrong.toml"]).await;
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(!checked.status.success(), "{said}");
    for mistake in ["'drian' was unexpected", "25 is not valid", "\"texts\" is not"] {
        assert!(said.contains(mistake), "{mistake}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_shows_examples_and_exit_statuses() {
    let help = printed(&["--help"]).await;
    for words in ["Examples:", "shapegate demo", "Exit status:", "64  wrong usage", "NO_COLOR", "RUST_LOG"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(printed(&["--version"]).await.starts_with(concat!("shapegate ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_manual_pages_name_every_command() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(printed(&["man", folder.path().to_str().unwrap()]).await, "");
    let main = printed(&["man"]).await;
    let help = printed(&["--help"]).await;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<_> = list.lines().map_while(|line| line.split_whitespace().next()).collect();
    let commands: Vec<_> = commands.into_iter().filter(|command| *command != "help").collect();
    assert!(commands.len() > 8 && commands.contains(&"token"), "{commands:?}");
    let documented = std::fs::read_to_string(place("docs/commands.md")).unwrap();
    for command in &commands {
        assert!(documented.contains(&format!("\n    shapegate {command} ")), "docs/commands.md lacks {command}");
        assert!(main.contains(&format!("shapegate\\-{command}(1)")), "{command}: {main}");
        let page = std::fs::read_to_string(folder.path().join(format!("shapegate-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]).await;
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_a_file_that_check_accepts_and_replaces_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shapegate.toml");
    let file = path.to_str().unwrap();
    let options = ["--issuer", "https://tenant.example.com/", "--audience", "my-app", "--tables", "tasks,auth.users"];
    let arguments = [&["init", file, "--electric", "http://10.0.0.5:3000"][..], &options].concat();
    assert!(printed(&arguments).await.contains("check --config"));
    let text = std::fs::read_to_string(&path).unwrap();
    // An `iss` is compared exactly, with its slash.
    assert!(text.contains("issuer = \"https://tenant.example.com/\""), "{text}");
    assert!(text.contains("\"https://tenant.example.com/.well-known/jwks.json\""), "{text}");
    let check = shapegate(&["check", "--config", file]).env("ELECTRIC_SECRET", "x").output().await.unwrap();
    assert!(check.status.success() && check.stderr.is_empty(), "{}", String::from_utf8_lossy(&check.stderr));
    assert!(String::from_utf8(check.stdout).unwrap().contains("2 rules, 1 issuer\n"));
    let again = output(&arguments).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("cannot write"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert!(printed(&["init", "-"]).await.starts_with("#:schema "));
    for wrong in [["--issuer", "auth.example.com"], ["--tables", "a\"b"], ["--electric", "nonsense"]] {
        let wrong = output(&[&["init", "-"][..], &wrong].concat()).await;
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(64), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_without_secrets_finds_other_errors() {
    let minimal = place("conf/shapegate.minimal.toml");
    let arguments = |path: &Path| ["check", "--without-secrets", "--config", path.to_str().unwrap()].map(str::to_owned);
    let check = async |path: &Path| {
        let arguments = arguments(path);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        output(&arguments).await
    };
    assert_eq!(check(&minimal).await.status.code(), Some(0));
    assert_eq!(output(&["check", "--config", minimal.to_str().unwrap()]).await.status.code(), Some(64));
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, std::fs::read_to_string(&minimal).unwrap().replace("where", "were")).unwrap();
    assert_eq!(check(&wrong).await.status.code(), Some(64));
}
