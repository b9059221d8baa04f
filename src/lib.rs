//! shapegate: an authorizing proxy in front of Electric's sync service.
//!
//! The modules:
//!
//! | module | does |
//! |---|---|
//! | [`config`] | parses the TOML file into a valid [`config::Config`]; every error names file, line and key |
//! | [`server`] | listeners, admin port, background tasks, reload, drain, upgrade to a new process, systemd |
//! | [`proxy`] | handles requests (`impl ProxyHttp`); `decide` makes the decisions in order |
//! | [`auth`] | verifies a bearer token and returns an [`auth::Principal`]; caches verdicts and keys |
//! | [`decisions`] | asks external services for decisions (AuthZEN), and caches their answers |
//! | [`policy`] | decides whether a `Principal` may make a `ShapeRequest`: a `Permit` or a `Denial` |
//! | [`filter`] | parses a client's `where` and `order_by`, allows known constructs only; lints a rule's `where` |
//! | [`gatekeeper`] | mints tokens that are valid for one shape |
//! | [`shape`] | parses the client's request, and the shape that a token allows |
//! | [`rewrite`] | builds the request to Electric from a permit and the client's request |
//! | [`flight`] | shares one response of Electric among all requests that mean the same, in flight and while fresh |
//! | [`upstream`] | Electric's servers: addresses, health, secrets |
//! | [`limits`] | limits per subject, per address, per connection and in total |
//! | [`rejection`] | the responses that shapegate produces itself, with status, code and reason in one table |
//! | [`fault`] | failures of shapegate and of Electric; the log gets the cause, the client a fixed response |
//! | [`metrics`] | counters and histograms for Prometheus, one method for each event |
//! | [`telemetry`] | logs, the access log, the audit log, spans |
//! | [`cli`] | the commands: run, check, explain, test, token, jwks, demo |
//! | `demo` | an issuer, a simulated Electric and a web page; only with the feature `demo`, not in production builds |
//!
//! Dependencies between modules, checked by `tests/layers.rs`:
//! - Modules import each other in one direction only.
//! - `auth`, `decisions`, `filter`, `flight`, `gatekeeper`, `limits`, `policy`, `rewrite` and `shape` do not depend on Pingora, not
//!   even through another module.
//! - Only `server` and `cli` import `config`. Settings types are therefore defined in the module that uses them.
//! - `proxy` may use every module except these three.
//!
//! Small modules that every module may use: `clock` (the wall clock as an argument), `digest` (SHA-256), `heap` (the size of values in
//! memory), `hex`, `json` (strict parsing), `owner` (who else can change or read a file), `secret` (strings that no log shows) and
//! `trace_context` (the `traceparent` header).

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decisions;
#[cfg(feature = "demo")]
pub mod demo;
mod digest;
mod expiring;
pub mod fault;
pub mod filter;
pub mod flight;
pub mod gatekeeper;
mod heap;
mod hex;
mod json;
pub mod limits;
pub mod metrics;
mod nearest;
mod owner;
pub mod policy;
pub mod proxy;
pub mod rejection;
pub mod rewrite;
pub mod secret;
pub mod server;
pub mod shape;
pub mod telemetry;
pub mod trace_context;
pub mod upstream;
