//! Connects to Electric: its servers, addresses, health and secrets.
//!
//! [`Upstreams`] holds a pool for each configured Electric service. In a pool with several servers, `cluster` assigns
//! each shape to one server and checks the health of all of them; `rotation` decides which servers receive shapes.

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
