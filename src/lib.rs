//! shapegate: an authorizing proxy in front of Electric's sync service.
//!
//! The path of one request, in the order of the modules that carry it:
//!
//! | module | does |
//! |---|---|
//! | [`config`] | TOML file to a [`config::Config`] that cannot be invalid; every error names file, line and key. Settings types stand beside the code that uses them |
//! | [`server`] | listeners, admin port, background tasks, reload, drain, the hand-over to a new process, systemd |
//! | [`proxy`] | `impl ProxyHttp`: the request path; `decide` holds the order of decisions |
//! | [`auth`] | bearer token to [`auth::Principal`]: verifier, verdict cache, key store |
//! | [`policy`] | `Principal` and `ShapeRequest` to a `Permit`, or a denial |
//! | [`filter`] | a client's own `where` and `order_by`, cut to an allow-list and printed anew; the lint of a rule's `where` |
//! | [`gatekeeper`] | mints shape-scoped tokens |
//! | [`shape`] | the client's request, parsed; what defines a shape, and the token's claim that a request must repeat |
//! | [`rewrite`] | the request to Electric, built from empty out of a permit and the client's request |
//! | [`flight`] | the hub: one answer of Electric for all whose request is the same, while it runs and while it is fresh |
//! | [`upstream`] | Electric on the network: servers, addresses, health, secrets |
//! | [`limits`] | how much one subject, one address, one connection and all together may ask for |
//! | [`rejection`] | every answer we give ourselves: status, code, label in one table |
//! | [`fault`] | failures of ours and of the upstream: the cause for the log, nothing for the client |
//! | [`metrics`] | counters and histograms for Prometheus, one method for each event |
//! | [`telemetry`] | logs, the access log, the audit log, spans |
//! | [`cli`] | the commands: run, check, explain, jwks, demo |
//! | `demo` | an issuer, a stand-in for Electric and a page to watch, behind the feature `demo`; not in a production build |
//!
//! Modules import each other in one direction. `auth`, `filter`, `flight`, `gatekeeper`, `limits`, `policy`, `rewrite` and
//! `shape` do not reach Pingora, not even through another module; only `server` and `cli` import `config`; `proxy` may use
//! everything but these three. `tests/layers.rs` holds this.
//!
//! Small modules that any other may use: `clock` (the wall clock as an argument), `digest` (SHA-256), `hex`, `json` (strict
//! parsing), `secret` (text that no log shows) and `trace_context` (the `traceparent` header).

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
mod digest;
pub mod fault;
pub mod filter;
pub mod flight;
pub mod gatekeeper;
mod hex;
mod json;
pub mod limits;
pub mod metrics;
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
