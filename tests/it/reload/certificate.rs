//! A certificate that is replaced on disk while it is in use.

use std::path::Path;
use std::time::Duration;

use crate::harness::{Certificate, Gate, Process, Setup, config, shapegate, tls_line};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";

/// Serves with the files of a folder, which are checked every 10 ms.
async fn serving(folder: &Path, first: &Certificate) -> Gate {
    put(folder, first, first);
    let server = tls_line(&folder.join("cert.pem"), &folder.join("key.pem"));
    let setup = Setup {
        server,
        tune: |config| config.server.tls.as_mut().unwrap().poll = Duration::from_millis(10),
        ..Setup::default()
    };
    Gate::with(setup).await
}

/// Puts the certificate of one pair and the key of another in place, each atomically.
fn put(folder: &Path, cert: &Certificate, key: &Certificate) {
    for (from, name) in [(cert.cert(), "cert.pem"), (key.key(), "key.pem")] {
        std::fs::copy(from, folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }
}

/// Returns the status on a new connection that trusts only `certificate`; `None` if the handshake fails.
async fn handshake(gate: &Gate, certificate: &Certificate) -> Option<u16> {
    let client = certificate.client().build().unwrap();
    ask(gate, &client).await
}

async fn ask(gate: &Gate, client: &reqwest::Client) -> Option<u16> {
    let url = gate.url.replace("http://", "https://");
    let request = client.get(format!("{url}{TASKS}")).bearer_auth(gate.token(&["org_1"]));
    request.send().await.ok().map(|answer| answer.status().as_u16())
}

// A pair that changes while it is read is loaded once more.
const OK: &str = r#"shapegate_certificate_loads_total{result="ok"}"#;
const REFUSED: &str = r#"shapegate_certificate_loads_total{result="refused"}"#;
const EXPIRY: &str = "shapegate_certificate_expiry_timestamp_seconds";

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificate_serves_new_handshakes_and_open_connections_continue() {
    let (first, second) = (Certificate::new(), Certificate::until(2031));
    let folder = tempfile::tempdir().unwrap();
    let gate = serving(folder.path(), &first).await;
    let open = first.client().build().unwrap();
    assert_eq!(ask(&gate, &open).await, Some(200));
    assert_eq!(handshake(&gate, &second).await, None, "not yet");
    put(folder.path(), &second, &second);
    gate.until_metric_reaches(OK, 2.0).await;
    assert_eq!(handshake(&gate, &second).await, Some(200));
    assert_eq!(handshake(&gate, &first).await, None);
    assert_eq!(ask(&gate, &open).await, Some(200), "on the open connection");
    // 2031-01-01T00:00:00Z
    assert_eq!(gate.metric(EXPIRY).await, 1_924_992_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mismatched_pair_keeps_the_current_certificate() {
    let (first, second) = (Certificate::new(), Certificate::new());
    let folder = tempfile::tempdir().unwrap();
    let gate = serving(folder.path(), &first).await;
    let expiry = gate.metric(EXPIRY).await;
    put(folder.path(), &second, &first);
    gate.until_metric_reaches(REFUSED, 1.0).await;
    assert_eq!((handshake(&gate, &first).await, handshake(&gate, &second).await), (Some(200), None));
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    gate.until_metric_reaches(REFUSED, 2.0).await;
    assert_eq!(handshake(&gate, &first).await, Some(200));
    assert_eq!(gate.metric(EXPIRY).await, expiry);
    // A matching pair is loaded without a reload.
    put(folder.path(), &second, &second);
    gate.until_metric_reaches(OK, 2.0).await;
    assert_eq!((handshake(&gate, &first).await, handshake(&gate, &second).await), (None, Some(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_takes_other_certificate_files_or_is_rejected_entirely() {
    let (first, second) = (Certificate::new(), Certificate::new());
    let setup = Setup { certificate: Some(first.clone()), ..Setup::default() };
    let gate = Gate::with(setup).await;
    assert_eq!(handshake(&gate, &first).await, Some(200));
    let files = |cert: &Certificate, key: &Certificate| (cert.cert(), key.key());
    let reload = |(cert, key): (std::path::PathBuf, std::path::PathBuf), rules: &str| {
        let rules = rules.to_owned();
        gate.policy.reload(
            |setup| setup.rules = rules,
            |config| {
                let tls = config.server.tls.as_mut().unwrap();
                (tls.cert, tls.key) = (cert, key);
            },
        )
    };
    let nothing = "[[shape]]\ntable = 'other'\nwhere = 'none'\n";
    let error = reload(files(&second, &first), nothing).unwrap_err();
    assert!(format!("{error:#}").starts_with("server.tls: certificate and private key do not match: "), "{error:#}");
    assert_eq!(handshake(&gate, &first).await, Some(200), "rules and certificate are the previous ones");
    reload(files(&second, &second), nothing).unwrap();
    assert_eq!((handshake(&gate, &first).await, handshake(&gate, &second).await), (None, Some(404)));
    // If the files in use have become invalid, a reload still changes the rules.
    std::fs::write(second.key(), "half").unwrap();
    reload(files(&second, &second), crate::harness::RULES).unwrap();
    assert_eq!(handshake(&gate, &second).await, Some(200));
    let name = "shapegate_certificate_loads_total{result=\"refused\"}";
    let metrics = reqwest::get(format!("{}/metrics", gate.admin)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains(&format!("{name} 1")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_about_a_certificate_are_shown_by_check_and_at_the_start() {
    let gate = Gate::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &gate.electric.url(), gate.issuer.url());
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |certificate: &Certificate| {
        let text = text.replace("[server]\n", &format!("[server]\n{}\n", certificate.line()));
        std::fs::write(&path, format!("{text}\n[log]\nformat = \"json\"\n")).unwrap();
    };
    let check = async || {
        let said = shapegate(&["check", "--config", path.to_str().unwrap()]).output().await.unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    };
    let (good, expired) = (Certificate::new(), Certificate::until(2020));
    with(&good);
    let (code, said) = check().await;
    assert!(code == Some(0) && !said.contains("server.tls.cert"), "{said}");
    with(&expired);
    let (code, said) = check().await;
    assert!(code == Some(0) && said.contains("warning: server.tls.cert: ") && said.contains("has expired"), "{said}");
    let log = Process::start(&path).await.stop().await;
    assert!(log.iter().any(|line| line.contains("WARN") && line.contains("has expired")), "{log:#?}");
    // An encrypted key is an error.
    let key = std::fs::read_to_string(good.key()).unwrap();
    std::fs::write(good.key(), key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
    with(&good);
    let (code, said) = check().await;
    assert!(code == Some(64) && said.contains("server.tls.key: ") && said.contains("is encrypted"), "{said}");
}
