//! Electric on the network: where it is, and how it is asked.
//!
//! [`Upstreams`] holds a pool for each configured Electric. In a pool of several servers, `cluster` gives each shape a
//! server of its own and asks all of them for their health; `rotation` decides which of them have shapes.

mod addresses;
mod cluster;
mod failure;
mod health;
mod pool;
mod refusal;
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
