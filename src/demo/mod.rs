//! What the demo and the tests need, and production does not.
//!
//! It has an [`issuer`] of tokens, a stand-in for [`electric`], and the [`http`] server that both use. The request path
//! does not use this module; only the `demo` command, tests and benches do.

pub mod electric;
pub mod http;
pub mod issuer;
pub mod scene;
