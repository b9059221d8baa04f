//! Checks where secrets are read from, and that nothing shows them (docs/security.md, T4, C7).

use std::path::Path;

use super::{environment, errors, parse};
use crate::config::{Config, Environment};

const CANARY: &str = "canary";

fn upstream(secret: &str) -> String {
    format!("[upstream]\nurl = 'http://e'\nsecret = {secret}\n")
}

fn shared(secret: &str) -> String {
    format!("[[issuer]]\nissuer = 'a'\naudience = 'b'\nhs256 = {secret}\n")
}

#[test]
fn a_secret_without_exactly_one_usable_source_is_rejected() {
    const SOURCES: &str = r#"write { env = "NAME" }, { file = "/path" } or { credential = "name" }"#;
    let one = format!("needs exactly one source: {SOURCES}");
    let inline = format!("secrets are never written in this file: {SOURCES}");
    for (secret, message) in [
        ("'canary'", inline.as_str()),
        ("7", &inline),
        ("['canary']", &inline),
        ("{}", &one),
        ("{ env = 'ELECTRIC_SECRET', file = '/canary' }", &one),
        (
            "{ env = 'NO_SUCH' }",
            "the environment variable NO_SUCH is not set, or is not UTF-8 (`check --without-secrets` does not need it)",
        ),
        (
            "{ env = 'canary' }",
            "the environment variable of this name is not set, or is not UTF-8 (`check --without-secrets` does not need it)",
        ),
        ("{ env = 'BLANK_SECRET' }", "the secret is empty"),
        ("{ file = '/no/such/canary' }", "the secret's file cannot be read: No such file or directory (os error 2)"),
        ("{ credential = 'canary' }", "$CREDENTIALS_DIRECTORY is not set: add LoadCredential= to the systemd unit"),
        ("{ credential = '../canary' }", "the name of a credential is one file name, without `/`"),
    ] {
        assert_eq!(errors(&upstream(secret)), format!("x.toml:3: upstream.secret: {message}"), "{secret}");
    }
}

#[test]
fn a_shared_secret_needs_32_bytes() {
    assert!(parse(&shared("{ env = 'AUTH_SECRET' }")).is_ok());
    let message = "x.toml:4: issuer[0].hs256: the secret has 31 bytes: it needs at least 32";
    assert_eq!(errors(&shared("{ env = 'SHORT_SECRET' }")), message);
}

#[test]
fn newlines_at_the_end_of_files_and_credentials_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("electric"), "s3cret \r\n").unwrap();
    let environment = Environment::from([("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())]);
    for source in ["file", "credential"] {
        let text = format!(
            "[server]\nlisten = '[::]:0'\n{}[[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n",
            upstream(&format!("{{ {source} = 'electric' }}"))
        );
        let config = Config::parse(&text, &folder.path().join("x.toml"), &environment).unwrap();
        assert_eq!(config.upstream.secret.unwrap().expose(), "s3cret ");
    }
}

#[test]
fn debug_shows_no_secret() {
    let config = parse(&shared("{ env = 'AUTH_SECRET' }")).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("Secret(…)") && !shown.contains(CANARY), "{shown}");
}

#[test]
fn errors_show_no_secret() {
    let mut texts: Vec<String> = [
        "'canary'",
        "canary",
        "\"canary",
        "{ canary }",
        "{ env = canary }",
        "{ env = 'canary' }",
        "{ value = 'canary' }",
        "{ file = 'canary' }",
        "{ credential = 'canary' }",
        "2026-01-01canary",
        "2026-canary",
        "1canary",
        "0xcanary",
        "true canary",
        "'''canary",
        "'canary' 'canary'",
        "$canary",
        "{ env = 'SHORT_SECRET', canary = 1",
        "\"\"\"\ncanary=\n",
        "\"\"\"\ncanary canary: x\n",
        "\"\"\"\n[canary",
    ]
    .iter()
    .flat_map(|secret| [upstream(secret), shared(secret)])
    .collect();
    texts.push(shared("{ env = 'SHORT_SECRET' }"));
    for url in [
        "http://u:canary@e",
        "http://e/?secret=canary",
        "canary:",
        "http://e/canary",
        "ftp://canary",
        "http://ca nary:x/",
    ] {
        texts.push(format!("[upstream]\nurl = '{url}'\nsecret = {{ env = 'ELECTRIC_SECRET' }}\n"));
        let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']";
        texts.push(format!("{issuer}\njwks.url = '{url}'\njwks.secret = 'canary'\n"));
    }
    for text in texts {
        let found = parse(&text).expect_err(&text);
        let json = serde_json::to_string(&found.iter().collect::<Vec<_>>()).unwrap();
        let shown = format!("{found} {found:?} {} {json}", found.report());
        assert!(!shown.contains(CANARY), "{text}\n{shown}");
    }
}

#[test]
fn an_unreadable_secret_is_an_error_in_an_otherwise_valid_file() {
    let text = include_str!("../../../conf/shapegate.full.toml");
    let found = Config::parse(text, Path::new("x.toml"), &Environment::from([])).unwrap_err();
    let keys: Vec<_> = found.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["upstream.secret", "upstreams.acme-db.secret", "issuer[1].hs256", "gatekeeper.hs256"]);
    assert!(Config::parse(text, Path::new("x.toml"), &environment()).is_ok());
}
