//! The configuration: a TOML file becomes a [`Config`] that cannot be invalid.
//!
//! `raw` mirrors the file and knows where each key stands; `resolve` turns it into the types below and collects
//! every error on the way, each with file, line and key. Nothing reads the file after that.

mod environment;
mod error;
mod file;
mod raw;
mod resolve;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::auth::Algorithm;
use crate::auth::keys::KeySet;
use crate::gatekeeper::Gatekeeper;
use crate::policy::PolicySet;
use crate::secret::Secret;
use crate::shape::ShapeClaims;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors};
pub use file::ConfigFile;
pub use upstream::{Ca, ServerUrl, Upstream};

/// Everything a running shapegate is told.
#[derive(Debug)]
pub struct Config {
    /// Listeners, threads, drain.
    pub server: Server,
    /// Where Electric is and how to speak to it: for every rule that names no other.
    pub upstream: Upstream,
    /// Further Electrics, by the names that rules call them by.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Whose tokens are accepted, the gatekeeper's own at the end; empty only where every rule is public.
    pub issuers: Vec<Issuer>,
    /// The compiled `[[shape]]` rules.
    pub policy: PolicySet,
    /// Where shape tokens are minted, if anywhere.
    pub gatekeeper: Option<Gatekeeper>,
    /// What browsers are told.
    pub cors: Cors,
    /// Sizes and budgets.
    pub limits: Limits,
    /// What is shared and kept.
    pub cache: Cache,
    /// What is logged and how.
    pub log: Log,
    /// What `check --probe` tries the rules with.
    pub probe: Probe,
    /// Who has read what; `None` keeps no audit log.
    pub audit: Option<Audit>,
    /// Where spans of requests go; `None` records none.
    pub otel: Option<Otel>,
    /// What can be better about the file, by line; none of it keeps the file from being used.
    pub warnings: Vec<ConfigError>,
    /// The file it was read from; `None` where it was not read from one.
    pub file: Option<ConfigFile>,
}

impl Config {
    /// Reads a file, with the environment of this process.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, &Environment::Process)
    }

    /// The issuers of a file, on a machine that has neither its secrets nor its key files: for `shapegate jwks`.
    pub fn load_issuers(path: &Path) -> Result<Vec<Issuer>, ConfigErrors> {
        Self::read(path, &Environment::Deploy).map(|config| config.issuers)
    }

    fn read(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigErrors::unreadable(path, &cause))?;
        let file = Some(ConfigFile::of(path, &text));
        Self::parse(&text, path, environment).map(|config| Self { file, ..config })
    }

    /// Resolves the text of `file`. Paths in it that are relative start at the folder of `file`.
    pub fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let document = raw::Document::new(text, file);
        let table = document.table();
        let config =
            table.as_ref().and_then(|table| resolve::config(raw::Section::root(&document, table), environment));
        let config = config.map(|config| Self { warnings: document.warnings(), ..config });
        drop(table);
        document.finish(config)
    }
}

/// `[server]`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Addresses for client traffic; port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub admin: SocketAddr,
    /// Worker threads; never 0 (0 in the file means one per core).
    pub threads: usize,
    /// How long requests in flight may take after SIGTERM.
    pub drain: Duration,
    /// Certificate and key of the client listeners.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 without TLS (prior knowledge) is answered.
    pub h2c: bool,
    /// Requests that one HTTP/2 connection may have under way; 100 to 1000.
    pub h2_streams: usize,
    /// An HTTP/2 connection without a request is closed after this.
    pub h2_idle_timeout: Duration,
    /// Where the last good key sets are kept; `None` keeps them in memory alone.
    pub state: Option<PathBuf>,
    /// The Unix socket over which the next process takes the listening sockets; `None`: it cannot.
    pub upgrade_socket: Option<PathBuf>,
    /// How long the next process may take until it is ready; after that the old one goes on alone.
    pub upgrade_timeout: Duration,
}

/// Certificate chain and private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key of the leaf.
    pub key: PathBuf,
    /// How often both are looked at for a change. No file says it: 5 s.
    pub poll: Duration,
}

/// One `[[issuer]]`.
#[derive(Debug)]
pub struct Issuer {
    /// The exact `iss`.
    pub issuer: String,
    /// A token's `aud` must name one of these; never empty.
    pub audience: Vec<String>,
    /// The accepted `alg` values; never empty, and all HMAC or all public-key as `keys` is.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// Clock skew allowed at `exp`, `nbf` and `iat`; 0 to 60 s.
    pub leeway: Duration,
    /// The longest accepted `exp - iat`; where set, `iat` is required.
    pub max_lifetime: Option<Duration>,
    /// The accepted `typ` values in lower case, without `application/`; a token without `typ` is accepted.
    pub types: Vec<String>,
    /// What a `shape` claim in its tokens means.
    pub shape_claims: ShapeClaims,
}

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// One shared secret, for HS256; at least 32 bytes.
    Shared(Secret),
    /// Public keys: a set read at start, one fetched, or both (the fixed one is asked first).
    Published {
        /// The set of `jwks.file`.
        fixed: Option<KeySet>,
        /// The set of `jwks.url`.
        remote: Option<RemoteKeys>,
    },
}

/// A JWKS endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// `https`, or `http` to loopback (or with `danger_plain_http`).
    pub url: Url,
    /// Refreshed at the latest after this; the endpoint's `max-age` may ask for less, never below 30 s.
    pub refresh: Duration,
    /// At most one refresh for an unknown `kid` in this time.
    pub cooldown: Duration,
    /// The longest a whole fetch may take; at most 5 s.
    pub timeout: Duration,
    /// How old a set from the disk or from a failing endpoint may be and still be used.
    pub max_stale: Duration,
    /// Whether a URL that resolves to a loopback, private or link-local address is fetched.
    pub private_address: bool,
}

/// `[cors]`.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Which origins may read answers.
    pub origins: Origins,
    /// Whether browsers may send credentials; never with [`Origins::Any`].
    pub credentials: bool,
    /// How long a preflight may be remembered.
    pub max_age: Duration,
}

/// Which origins may read answers.
#[derive(Clone, Debug)]
pub enum Origins {
    /// `*`: any; the bearer token is what protects the rows.
    Any,
    /// These, compared byte for byte (scheme, host, port).
    List(Vec<String>),
}

/// `[limits]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request's header names and values; more is 431.
    pub header_bytes: usize,
    /// Number of a request's headers; more is 431.
    pub headers: usize,
    /// Bytes of the request target; more is 414.
    pub uri_bytes: usize,
    /// Bytes of a token; more is 431, without a look at it.
    pub token_bytes: usize,
    /// Requests being answered at one time; more is 503.
    pub requests: usize,
    /// Requests of one subject being answered at one time; more is 429.
    pub requests_per_subject: usize,
    /// Requests of one address being answered at one time; more is 429. 0: no bound, as in all that can be 0 here.
    pub requests_per_address: usize,
    /// Requests of one subject a second, on average over five; more is 429.
    pub rate_per_subject: usize,
    /// Requests of one address a second, on average over five; more is 429.
    pub rate_per_address: usize,
    /// Bad tokens of one address a minute; after them a token that is not known is 429, without a look at it.
    pub bad_tokens_per_address: usize,
    /// How often one connection gets the same, without progress, in half a second; more is 429.
    pub repeats: usize,
    /// Verified tokens remembered.
    pub verdicts: usize,
    /// Requests to Electric at one time; more is 503.
    pub flights: usize,
    /// Requests to Electric of one subject at one time; more is 429.
    pub flights_per_subject: usize,
    /// Those of `flights` that may open a shape or query Postgres, until their answer begins; more is 503.
    pub initial_flights: usize,
    /// The same of one subject; more is 429.
    pub initial_flights_per_subject: usize,
    /// Different shapes that one subject makes Electric open in `shapes_window`; more is 429.
    pub shapes_per_subject: usize,
    /// See there.
    pub shapes_window: Duration,
    /// Connections of clients; more are closed at once.
    pub connections: usize,
    /// Connections of one address that is no trusted proxy; more are closed at once.
    pub connections_per_address: usize,
    /// Bytes of resident memory; above, new flights are 503 and new connections closed.
    pub memory: usize,
    /// Who may name a client's address. `None`: nobody has said what stands in front, and no limit per address is set.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// A client that takes no bytes for so long is cut.
    pub write_timeout: Duration,
}

/// `[cache]`.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Bytes of finished answers kept; 0 keeps none.
    pub bytes: usize,
    /// Bytes of one answer that newcomers can still join; a longer one is not kept either.
    pub flight_bytes: usize,
    /// The longest an answer is fresh, whatever Electric says.
    pub max_age: Duration,
    /// How long a request to Electric goes on when nobody waits for it any more.
    pub grace: Duration,
    /// How old a stream of events may be for newcomers.
    pub sse_join: Duration,
    /// Whether answers are compressed for clients that accept it.
    pub compress: bool,
    /// Bytes below which an answer is not.
    pub compress_min: usize,
    /// Whether answers carry `shapegate-cache`.
    pub header: bool,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object, or one readable line, per entry.
    pub format: LogFormat,
    /// The filter, in the syntax of `RUST_LOG` (`info`, `shapegate=debug,warn`).
    pub level: String,
    /// Whether each answer gets a line.
    pub access: bool,
}

/// `[probe]`.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The claims of no token, as a JSON object.
    pub claims: String,
    /// A client's parameters, as in a URL.
    pub query: String,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where its lines go.
    pub target: AuditTarget,
    /// A session of a subject with a shape ends when it was idle for so long.
    pub idle: Duration,
    /// Sessions in memory; above, the oldest is written.
    pub sessions: usize,
}

/// `[otel]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Otel {
    /// The collector, without the path of its traces.
    pub endpoint: Url,
    /// How spans are written.
    pub protocol: OtelProtocol,
    /// The part of all traces that is recorded, 0 to 1.
    pub sample: f64,
    /// `service.name` of the spans.
    pub service: String,
}

/// How spans are written; OpenTelemetry's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtelProtocol {
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}

/// Where audit lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditTarget {
    /// A file, appended to and followed through rotations.
    File(PathBuf),
    /// Standard error, among the log's lines; journald keeps both.
    Stderr,
}

/// How a log entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
}
