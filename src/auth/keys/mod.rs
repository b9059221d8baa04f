//! Loads the keys of an issuer and selects the usable ones.
//!
//! [`KeySet`] holds only usable keys. `store` keeps one issuer's remote set current: `renewal` decides when to fetch,
//! [`fetch`] fetches (with `discovery`, from where the issuer's metadata says), and `disk` saves the last good set for the next start.

mod discovery;
pub(crate) mod disk;
pub mod fetch;
mod key;
pub(crate) mod renewal;
mod set;
pub(crate) mod store;

pub use super::http::{Document, FetchError};
pub use fetch::{HttpFetch, JwksFetch};
pub(crate) use key::Key;
pub use key::KeyRejection;
pub(crate) use set::NoKey;
pub use set::{KeySet, KeySetError, ParsedKeys, RejectedKey};
pub use store::KeyStatus;
