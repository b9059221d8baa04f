//! What one request carries on its way.

use super::reply::Edge;
use crate::limits::Position;
use crate::telemetry::Record;

/// One request: what its client is told whatever the answer, and what observers are told.
#[derive(Debug, Default)]
pub(super) struct RequestCtx {
    pub(super) edge: Edge,
    pub(super) record: Record,
    /// Where in a shape's log it is, and where its answer sends it.
    pub(super) position: Option<Position>,
    pub(super) next: Option<Position>,
}
