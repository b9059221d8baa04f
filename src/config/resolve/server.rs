//! Resolves `[server]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::available_parallelism;

use super::secret::warn_if_readable;
use super::{hours, secs};
use crate::config::raw::{Bounds, Section, Value};
use crate::config::{Environment, ServerSettings, TlsSettings};
use crate::owner::{MAKE_IT_OURS, others_can_write};
use crate::proxy::Http2Settings;

const BROWSERS: &str = " (a browser sends all its polls on one connection)";

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

const OPEN_ADMIN: &str = "not a loopback address: /metrics and /readyz are open to everyone who can connect to it; use \
                          127.0.0.1, or let only the monitoring connect";

pub(super) fn server(mut section: Section<'_>, environment: &Environment) -> Option<ServerSettings> {
    let listen = section.required("listen", r#"write the addresses for clients, as in ["0.0.0.0:8080"]"#);
    let admin = section.value("admin");
    let threads = section.integer("threads", 0, Bounds::new(0, 1024).because(" (0: one per core)"));
    let drain = section.duration("drain", secs(25), Bounds::new(secs(0), hours(1)));
    let tls = section.value("tls");
    let h2c = section.boolean("h2c", false);
    let h2_streams = section.integer("h2_streams", 250, Bounds::new(100, 1000).because(BROWSERS));
    let h2_idle_timeout = section.duration("h2_idle_timeout", secs(120), Bounds::new(secs(1), hours(1)));
    let state = section.value("state");
    let upgrade_socket = section.value("upgrade_socket");
    let explain_denials = section.boolean("danger_explain_denials", false);
    let upgrade_timeout = section.duration("upgrade_timeout", secs(60), Bounds::new(secs(1), hours(1)));

    if explain_denials {
        section.warning("danger_explain_denials", "clients see why they are rejected: for development only");
    }
    let tls = tls.and_then(Value::section).and_then(tls_files);
    let state = state.and_then(|value| value.path()).or_else(|| environment.state_directory());
    if state.as_deref().is_some_and(is_open) {
        section.warning(
            "state",
            format!("other users can write to this folder, so keys saved there are ignored: {MAKE_IT_OURS}"),
        );
    }
    let upgrade_socket = upgrade_socket.and_then(|value| value.path());
    let (listen, admin) = addresses(listen.as_ref(), admin.as_ref())?;
    Some(ServerSettings {
        listen,
        admin,
        threads: if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads },
        drain,
        tls,
        http2: Http2Settings { h2c, streams: h2_streams, idle_timeout: h2_idle_timeout },
        state,
        upgrade_socket: upgrade_socket.or_else(|| Some(environment.runtime_directory()?.join("upgrade.sock"))),
        explain_denials,
        upgrade_timeout,
    })
}

/// Returns whether the folder exists and other users can write to it.
fn is_open(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|metadata| others_can_write(&metadata))
}

/// Reads the client addresses and the admin address. No two may be equal, except with port 0.
fn addresses(listen: Option<&Value<'_>>, admin: Option<&Value<'_>>) -> Option<(Vec<SocketAddr>, SocketAddr)> {
    let mut taken = Vec::new();
    let admin = match admin {
        None => Some(ADMIN),
        Some(value) => {
            let admin = address(value, &taken);
            if admin.is_some_and(|admin| !admin.ip().to_canonical().is_loopback()) {
                value.warning(OPEN_ADMIN);
            }
            admin
        }
    };
    taken.extend(admin);
    let listen = listen?.list()?;
    for value in &listen {
        taken.extend(address(value, &taken));
    }
    let whole = taken.len() == listen.len() + 1;
    whole.then(|| (taken.split_off(1), taken[0]))
}

fn address(value: &Value<'_>, taken: &[SocketAddr]) -> Option<SocketAddr> {
    let Ok(address) = value.text()?.parse::<SocketAddr>() else {
        value.error(r#"not an address: write an IP address and a port, as in "0.0.0.0:8080" or "[::]:8080""#);
        return None;
    };
    if address.port() != 0 && taken.contains(&address) {
        value.error(format!("{address} is listened on twice (`listen` and `admin` together): give each its own port"));
        return None;
    }
    Some(address)
}

fn tls_files(mut section: Section<'_>) -> Option<TlsSettings> {
    let cert = section.required("cert", "write the path of the certificate chain (PEM)");
    let key = section.required("key", "write the path of the private key (PEM)");
    let cert = cert.and_then(|value| value.path());
    let key = key.and_then(|value| value.path().inspect(|path| warn_if_readable(&value, path)));
    Some(TlsSettings { cert: cert?, key: key?, poll: secs(5) })
}
