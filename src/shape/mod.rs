//! Parses what a client requests, and defines what a shape is.
//!
//! A [`ShapeRequest`] is parsed from the client's path and query. A [`Definition`] holds everything that decides which
//! rows a shape has. A [`ShapeClaim`] is a definition in a token, and a [`ScopedRequest`] must repeat it.

mod claim;
mod columns;
pub(crate) mod cursor;
mod definition;
mod identifier;
pub mod protocol;
mod request;
mod subset;
mod table;
mod upstream_name;

pub use claim::{Malformed, ScopedRequest, ShapeClaim, ShapeClaims};
pub use columns::{Columns, ColumnsError};
pub use definition::{Definition, Log, Replica};
pub use request::{ParameterError, ShapeRequest, Target};
pub(crate) use request::{RESERVED, problem};
pub use subset::SubsetQuery;
pub use table::{TableName, TableNameError};
pub use upstream_name::UpstreamName;

/// Electric's path. It is also our default path, and the only path of requests to Electric (docs/security.md, Q7).
pub const SHAPE_PATH: &str = "/v1/shape";
