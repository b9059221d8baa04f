//! Electric on the network: where it is, and how it is asked.
//!
//! [`Upstreams`] holds a pool for each configured Electric. A pool of several servers puts them on a ring by which each
//! shape has a server of its own, `rotation` says which of them are on it, and a task asks them for their health.

mod addresses;
mod failure;
mod health;
mod pool;
mod refusal;
mod ring;
mod rotation;
mod secrets;
mod server;
mod settings;

pub(crate) use health::AGENT;
pub(crate) use pool::{Pool, system_trust};
pub use pool::{ServerStatus, Upstreams};
pub(crate) use refusal::{MAX_BODY as MAX_REFUSAL, fault_of, refused_parameters};
pub(crate) use server::UpstreamServer;
pub use settings::{Ca, ServerUrl, UpstreamSettings};
