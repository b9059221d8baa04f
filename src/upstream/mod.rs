//! Electric on the network: where it is, and how it is asked.

mod addresses;
mod fetch;
mod refusal;
mod server;

pub use fetch::Electric;
pub use server::UpstreamServer;
