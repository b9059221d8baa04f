//! Resolves `[server]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::available_parallelism;

use super::gatekeeper::is_plain_path;
use super::secret::warn_if_readable;
use super::{hours, secs};
use crate::config::raw::{Bounds, Section, Value};
use crate::config::{Environment, ListenAddress, ServerSettings, TlsSettings};
use crate::gatekeeper::Gatekeeper;
use crate::limits::LimitSettings;
use crate::owner::{MAKE_IT_OURS, others_can_write};
use crate::policy::PolicySet;
use crate::proxy::HttpSettings;

const BROWSERS: &str = " (a browser sends all its polls on one connection)";

const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

const OPEN_ADMIN: &str = "not a loopback address: /metrics and /readyz are open to everyone who can connect to it; use \
                          127.0.0.1, or let only the monitoring connect";

pub(super) fn server(section: &mut Section<'_>, environment: &Environment) -> Option<ServerSettings> {
    let listen = section.required("listen", r#"write the addresses for clients, as in ["0.0.0.0:8080"]"#);
    let admin = section.value("admin");
    let threads = section.integer("threads", 0, Bounds::new(0, 1024).because(" (0: one per core)"));
    let drain = section.duration("drain", secs(25), Bounds::new(secs(0), hours(1)));
    let tls = section.value("tls");
    let proxy_protocol = section.boolean("proxy_protocol", false);
    let health_path = section.value("health_path");
    let h1_idle_timeout = section.duration("h1_idle_timeout", secs(60), Bounds::new(secs(1), hours(1)));
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
    let health_path = health_path.and_then(|value| plain_path(&value).map(str::to_owned));
    let (listen, admin) = addresses(listen.as_ref(), admin.as_ref())?;
    Some(ServerSettings {
        listen,
        proxy_protocol,
        admin,
        threads: if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads },
        drain,
        tls,
        http: HttpSettings { h1_idle_timeout, h2c, h2_streams, h2_idle_timeout, health_path },
        state,
        upgrade_socket: upgrade_socket.or_else(|| Some(environment.runtime_directory()?.join("upgrade.sock"))),
        explain_denials,
        upgrade_timeout,
    })
}

fn plain_path<'a>(value: &Value<'a>) -> Option<&'a str> {
    let path = value.text()?;
    if !is_plain_path(path) {
        value.error("write /segments of letters, digits and - . _ ~ without a slash at the end");
        return None;
    }
    Some(path)
}

/// Checks what depends on other sections.
pub(super) fn check_together(
    section: &Section<'_>,
    server: &ServerSettings,
    policy: Option<&PolicySet>,
    gatekeeper: Option<&Gatekeeper>,
    limits: &LimitSettings,
) {
    let is_taken = |path: &str| {
        policy.is_some_and(|policy| policy.endpoint(path).is_ok())
            || gatekeeper.is_some_and(|gatekeeper| gatekeeper.endpoint(path).is_some())
    };
    if server.http.health_path.as_deref().is_some_and(is_taken) {
        section.error("health_path", "clients get shapes or tokens at this path: choose another");
    }
    if server.proxy_protocol && limits.trusted_proxies.as_ref().is_none_or(Vec::is_empty) {
        section
            .error("proxy_protocol", "needs `limits.trusted_proxies`: only connections of these proxies have a header");
    }
}

/// Returns whether the folder exists and other users can write to it.
fn is_open(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|metadata| others_can_write(&metadata))
}

/// Reads the client addresses and the admin address. No two may be equal, except with port 0.
fn addresses(listen: Option<&Value<'_>>, admin: Option<&Value<'_>>) -> Option<(Vec<ListenAddress>, SocketAddr)> {
    let mut taken = Vec::new();
    let admin = match admin {
        None => Some(ADMIN),
        Some(value) => {
            let admin = address(value);
            if admin.is_some_and(|admin| !admin.ip().to_canonical().is_loopback()) {
                value.warning(OPEN_ADMIN);
            }
            admin
        }
    };
    taken.extend(admin.map(ListenAddress::Tcp));
    let listen = listen?.list()?;
    for value in &listen {
        taken.extend(client_address(value, &taken));
    }
    let clients = admin.map_or(0, |_| 1);
    let whole = taken.len() == listen.len() + clients;
    whole.then(|| Some((taken.split_off(clients), admin?)))?
}

fn client_address(value: &Value<'_>, taken: &[ListenAddress]) -> Option<ListenAddress> {
    let address = match value.text()?.strip_prefix("unix:") {
        Some("") => {
            value.error("names no file: write the path of the socket, as in \"unix:/run/shapegate/http.sock\"");
            return None;
        }
        Some(path) => ListenAddress::Unix(value.resolve(path)),
        None => ListenAddress::Tcp(address(value)?),
    };
    let any_port = matches!(&address, ListenAddress::Tcp(address) if address.port() == 0);
    if !any_port && taken.contains(&address) {
        value.error(format!("{address} is listened on twice (`listen` and `admin` together): give each its own port"));
        return None;
    }
    Some(address)
}

fn address(value: &Value<'_>) -> Option<SocketAddr> {
    let address = value.text()?.parse();
    let words = r#"not an address: write an IP address and a port, as in "0.0.0.0:8080" or "[::]:8080""#;
    address.map_err(|_| value.error(words)).ok()
}

fn tls_files(mut section: Section<'_>) -> Option<TlsSettings> {
    let cert = section.required("cert", "write the path of the certificate chain (PEM)");
    let key = section.required("key", "write the path of the private key (PEM)");
    let cert = cert.and_then(|value| value.path());
    let key = key.and_then(|value| value.path().inspect(|path| warn_if_readable(&value, path)));
    Some(TlsSettings { cert: cert?, key: key?, poll: secs(5) })
}
