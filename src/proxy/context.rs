//! What one request carries on its way.

use http::StatusCode;

use super::reply::Edge;
use crate::limits::Position;
use crate::telemetry::Record;

/// One request: what its client is told whatever the answer, and what observers are told.
#[derive(Debug, Default)]
pub(super) struct RequestCtx {
    pub(super) edge: Edge,
    pub(super) record: Record,
    /// Status and bytes of an answer that was written past Pingora's session.
    pub(super) sent: Option<(StatusCode, usize)>,
    /// Where in a shape's log it is, and where its answer sends it.
    pub(super) position: Option<Position>,
    pub(super) next: Option<Position>,
}
