//! Shapes: what the client asks for, and what Electric is asked.
//!
//! A [`ShapeRequest`] is parsed from the client's path and query; an [`UpstreamRequest`] is built from empty out of a
//! permit and the protocol parameters. Nothing else of the client travels.

pub mod protocol;
mod request;
mod upstream;

pub(crate) use request::percent_decode;
pub use request::{ParameterError, ShapeRequest, Target};
pub use upstream::{TooLong, UpstreamRequest};

/// Electric's path, ours by default, and the only one ever sent upstream (SECURITY Q7).
pub const SHAPE_PATH: &str = "/v1/shape";
