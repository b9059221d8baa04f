//! New processes that are killed at each step of an upgrade.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;

use rustix::process::{Signal, getpid, kill_process};
use shapegate::demo::electric::Options;

use super::{Around, FAILED, metric, status, waiting};
use crate::harness::{SECRET, Service};

/// The variable with the step after which the new process dies, and the one with its socket.
const STEP: &str = "SHAPEGATE_TEST_STEP";
const SOCKET: &str = "SHAPEGATE_TEST_SOCKET";

/// Plays the new process: speaks its part up to a step, and kills itself.
#[test]
#[ignore = "runs as the new process of the test below"]
fn plays_a_new_process() {
    let Ok(step) = std::env::var(STEP) else { return };
    let die_after = |done: &str| {
        if step == done {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    };
    let mut stream = UnixStream::connect(std::env::var(SOCKET).unwrap()).unwrap();
    die_after("connect");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    die_after("offer");
    stream.write_all(b"ready\n").unwrap();
    die_after("ready");
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "yours\n");
    die_after("yours");
    // The old process closes the connection when systemd knows the new one.
    reader.read_to_end(&mut Vec::new()).unwrap();
    die_after("end");
}

/// Starts a service whose next upgrade starts a process that dies after `step`.
async fn service_with(around: &Around, step: &str) -> Service {
    let config = around.config("");
    let (program, script) = (around.folder.path().join("shapegate"), around.folder.path().join("script"));
    symlink(env!("CARGO_BIN_EXE_shapegate"), &program).unwrap();
    let mut command = tokio::process::Command::new(&program);
    command.args(["--config", config.to_str().unwrap()]).env("ELECTRIC_SECRET", SECRET).kill_on_drop(true);
    let service = Service::with(command).await;
    let text = format!(
        "#!/bin/sh\n{STEP}={step} {SOCKET}={} exec {} --ignored --exact {} >/dev/null\n",
        around.folder.path().join("upgrade.sock").display(),
        std::env::current_exe().unwrap().display(),
        "upgrade::successor::plays_a_new_process",
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::rename(&script, &program).unwrap();
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_killed_before_it_has_the_sockets_leaves_the_old_one_serving() {
    for step in ["connect", "offer"] {
        let around = Around::start(Options::default()).await;
        let mut service = service_with(&around, step).await;
        for failures in [1.0, 2.0] {
            service.signal(Signal::USR2);
            let failed = service.line("upgrade failed").await;
            assert!(failed["message"].as_str().unwrap().contains("SIGKILL"), "{step}: {failed}");
            assert_eq!(status(&service.url, &around.token(1)).await, 200, "{step}");
            assert_eq!(metric(&service, FAILED).await, failures, "{step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_killed_after_it_has_the_sockets_makes_the_old_one_exit_with_1() {
    for step in ["yours", "end"] {
        let around = Around::start(Options::default()).await;
        let mut service = service_with(&around, step).await;
        // The old process would otherwise have drained before it can notice anything.
        let _waiting = waiting(&around, &service.url).await;
        service.signal(Signal::USR2);
        assert_eq!(service.first_ended().await.code(), Some(1), "{step}");
        assert!(!service.said("upgrade failed"), "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_process_killed_while_the_sockets_are_handed_over_leaves_a_process_that_serves_or_exits() {
    let around = Around::start(Options::default()).await;
    let mut service = service_with(&around, "ready").await;
    let _waiting = waiting(&around, &service.url).await;
    for _ in 0..5 {
        service.signal(Signal::USR2);
        // Whether it was told before it died is a matter of microseconds.
        match service.line_or_end("upgrade failed").await {
            Ok(failed) => assert!(failed["message"].as_str().unwrap().contains("SIGKILL"), "{failed}"),
            Err(ended) => return assert_eq!(ended.code(), Some(1)),
        }
        assert!(!service.said("a new process serves"), "no process serves");
        assert_eq!(status(&service.url, &around.token(1)).await, 200);
    }
}
