//! Flights: identical requests share one answer of Electric, while it runs and while it is fresh.
//!
//! A flight is a response in progress or finished: header, pieces, end. It has a task of its own
//! and belongs to no client; whoever is authorized for its [`FlightKey`] reads it from the start. The [`Hub`] knows the
//! flights by key, a [`Follower`] is one client's place aboard, a [`Source`] is who answers.

mod chain;
mod encoding;
#[allow(clippy::module_inception)]
mod flight;
mod follower;
mod freshness;
mod head;
mod hub;
mod kept;
mod key;
mod settings;
mod sink;
#[cfg(test)]
mod tests;

pub use chain::Piece;
pub use encoding::Encoding;
pub use follower::{Follower, Join};
pub use freshness::CacheControl;
pub use head::Head;
pub use hub::{Ask, Hub, KnownAnswer, Origin, Source};
pub use key::FlightKey;
pub use settings::CacheSettings;
pub use sink::Sink;
