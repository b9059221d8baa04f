//! Where the keys of an issuer come from and which of them are used.
//!
//! [`KeySet`] holds usable keys only; `store` keeps one issuer's remote set current: `renewal` decides when, [`fetch`]
//! knows how, `disk` keeps the last good set for the next start.

pub(crate) mod disk;
pub mod fetch;
mod key;
pub(crate) mod renewal;
mod resolver;
mod set;
pub(crate) mod store;

pub use fetch::{FetchError, FetchedKeys, HttpFetch, JwksFetch};
pub(crate) use key::Key;
pub use key::KeyRejection;
pub(crate) use set::NoKey;
pub use set::{KeySet, KeySetError, ParsedKeys, RejectedKey};
pub use store::KeyStatus;
