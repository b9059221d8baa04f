//! Shares one response of Electric among requests with the same meaning, while it is in flight and while it is fresh.
//!
//! A *flight* is a response in progress or finished: header, pieces, end. It runs in a task of its own and does not
//! depend on any one client. A *follower* is one client that reads a flight, from its start, after it has been
//! authorized for the flight's [`FlightKey`]. The [`Hub`] finds flights by key, a [`Follower`] reads one, and a
//! [`Source`] fetches its response.

mod chain;
mod encoding;
mod events;
#[allow(clippy::module_inception)]
mod flight;
mod follower;
mod freshness;
mod head;
mod hub;
mod kept;
mod key;
mod offset;
mod settings;
mod sink;
mod source;
mod tail;
mod terms;
#[cfg(test)]
mod tests;
mod window;

pub use chain::Piece;
pub use encoding::Encoding;
pub use follower::{Follower, Join};
pub use freshness::CacheControl;
pub use head::Head;
pub use hub::Hub;
pub use key::FlightKey;
pub use settings::CacheSettings;
pub use sink::Sink;
pub use source::{Ask, KnownAnswer, Origin, Source};
