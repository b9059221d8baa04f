//! Everything that a demonstration and the tests need and production does not.
//!
//! An [`issuer`] of tokens, a stand-in for [`electric`], and the [`http`] server under both. Nothing of the request
//! path uses this module; the `demo` command is its only user outside of tests and benches.

pub mod electric;
pub mod http;
pub mod issuer;
pub mod scene;
