//! Shapes: what the client asks for, and what Electric is asked.
//!
//! A [`ShapeRequest`] is parsed from the client's path and query; an [`UpstreamRequest`] is built from empty out of a
//! permit, the protocol parameters and, where the rule opens them, the client's filter and subset, printed anew. Nothing
//! else of the client travels.

pub mod protocol;
mod request;
mod subset;
#[cfg(test)]
pub(crate) mod tests;
mod upstream;

pub(crate) use request::percent_decode;
pub use request::{ParameterError, ShapeRequest, Target};
pub use subset::{MAX_BODY_BYTES, SubsetQuery};
pub use upstream::{RewriteError, UpstreamRequest};

/// Electric's path, ours by default, and the only one ever sent upstream (docs/security.md, Q7).
pub const SHAPE_PATH: &str = "/v1/shape";
