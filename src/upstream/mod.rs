//! Electric on the network: where it is, and how it is asked.
//!
//! [`Upstreams`] holds a pool for each configured Electric. A pool of several servers puts them on a ring by which each
//! shape has a server of its own, `rotation` says which of them are on it, and a task asks them for their health.

mod addresses;
mod failure;
mod fetch;
mod health;
mod pool;
mod refusal;
mod ring;
mod rotation;
mod secrets;
mod server;
mod settings;

pub use fetch::Electric;
pub use pool::{ServerStatus, Upstreams};
pub use settings::{Ca, ServerUrl, UpstreamSettings};
