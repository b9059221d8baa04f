//! Warnings about what other users of the machine, or of the network, can reach.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::accepted;

fn warnings(text: &str) -> Vec<String> {
    accepted(text).warnings.iter().map(ToString::to_string).collect()
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_admin_port_that_is_not_on_loopback_causes_a_warning() {
    for (admin, warned) in [
        ("127.0.0.1:9090", false),
        ("127.9.9.9:9090", false),
        ("[::1]:9090", false),
        ("[::ffff:127.0.0.1]:9090", false),
        ("0.0.0.0:9090", true),
        ("[::]:9090", true),
        ("10.0.0.1:9090", true),
    ] {
        let shown = warnings(&format!("[server]\nlisten = '127.0.0.1:0'\nadmin = '{admin}'\n"));
        assert_eq!(shown.len(), usize::from(warned), "{admin}: {shown:?}");
        assert!(
            shown.iter().all(|shown| shown.starts_with("x.toml:3: server.admin: not a loopback address")),
            "{shown:?}"
        );
    }
}

#[test]
fn a_state_folder_that_others_can_write_to_causes_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[server]\nlisten = '127.0.0.1:0'\nstate = '{}'\n", folder.path().display());
    for (mode, warned) in [(0o700, false), (0o755, false), (0o770, true), (0o777, true), (0o1777, true)] {
        allow(folder.path(), mode);
        let shown = warnings(&text);
        assert_eq!(shown.len(), usize::from(warned), "{mode:o}: {shown:?}");
        let start = "x.toml:3: server.state: other users can write to this folder";
        assert!(shown.iter().all(|shown| shown.starts_with(start)), "{shown:?}");
    }
    assert_eq!(warnings("[server]\nlisten = '127.0.0.1:0'\nstate = '/missing'\n"), Vec::<String>::new());
}

#[test]
fn a_secret_that_every_user_can_read_causes_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789").unwrap();
    let path = secret.display();
    let upstream = format!("[upstream]\nurl = 'http://e'\nsecret = {{ file = '{path}' }}\n");
    let tls = format!("[server]\nlisten = '[::]:0'\ntls = {{ cert = 'x', key = '{path}' }}\n");
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        allow(&secret, mode);
        allow(folder.path(), 0o755);
        for (text, key) in [(&upstream, "x.toml:3: upstream.secret.file"), (&tls, "x.toml:3: server.tls.key")] {
            let shown = warnings(text);
            assert_eq!(shown.len(), usize::from(warned), "{mode:o}: {shown:?}");
            assert!(shown.iter().all(|shown| shown.starts_with(key) && !shown.contains("0123456789")), "{shown:?}");
        }
        allow(folder.path(), 0o700);
        assert_eq!(warnings(&upstream), Vec::<String>::new(), "its folder keeps others out");
    }
}
