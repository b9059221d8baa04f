//! `[upstream]`.

use url::{Host, Url};

use super::secret::secret;
use super::{millis, secs};
use crate::config::raw::{Bounds, Section, Value};
use crate::config::{Environment, Upstream};
use crate::secret::Secret;

const SILENCE: &str = " (Electric is silent for up to 21 s in a long poll or between keep-alives)";
const CLOSING: &str = " (Electric closes a connection after 60 s without a request)";

pub(super) fn upstream(mut section: Section<'_>, environment: &Environment) -> Option<Upstream> {
    let url = section.required("url", r#"write where Electric listens, as in "http://127.0.0.1:3000""#);
    let secret = upstream_secret(&mut section, environment);
    let source_id = section.value("source_id");
    let connect_timeout = section.duration("connect_timeout", secs(5), Bounds::new(millis(100), secs(60)));
    let read_timeout = section.duration("read_timeout", secs(30), Bounds::new(secs(22), secs(300)).because(SILENCE));
    let idle_timeout = section.duration("idle_timeout", secs(50), Bounds::new(secs(1), secs(59)).because(CLOSING));
    let pool = section.integer("pool", 1024, Bounds::new(1, 65_536));

    let source_id = source_id.and_then(|value| value.text());
    let (host, port, tls) = origin(&url?)?;
    Some(Upstream {
        host,
        port,
        tls,
        secret,
        source_id: source_id.map(str::to_owned),
        connect_timeout,
        read_timeout,
        idle_timeout,
        pool,
    })
}

/// Electric's secret: required, unless the file says out loud that there is none.
fn upstream_secret(section: &mut Section<'_>, environment: &Environment) -> Option<Secret> {
    const REMEDY: &str =
        r#"write { env = "ELECTRIC_SECRET" }, or `danger_no_secret = true` where Electric runs with ELECTRIC_INSECURE"#;
    if !section.boolean("danger_no_secret", false) {
        return section.required("secret", REMEDY).and_then(|value| secret(value, 1, environment));
    }
    if let Some(value) = section.value("secret") {
        value.error("contradicts `danger_no_secret = true`: leave one of them out");
    }
    None
}

/// Host, port and whether it is `https`. The errors do not show the URL, which may hold a password.
fn origin(value: &Value<'_>) -> Option<(String, u16, bool)> {
    let parsed = Url::parse(value.text()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = parsed else {
        value.error(r#"no URL: write http or https, a host and a port, as in "http://127.0.0.1:3000""#);
        return None;
    };
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() {
        value.error("takes scheme, host and port alone: leave out user, password, path, query and fragment");
        return None;
    }
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some((host, url.port_or_known_default()?, url.scheme() == "https"))
}
