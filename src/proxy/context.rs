//! What one request carries from phase to phase.

use pingora::{Error, ErrorType};

use super::reply::Edge;
use crate::fault::Fault;
use crate::telemetry::Record;

/// One request: what its client is told whatever the answer, and what observers are told.
#[derive(Debug, Default)]
pub struct RequestCtx {
    pub(super) edge: Edge,
    pub(super) record: Record,
    fault: Option<Fault>,
}

impl RequestCtx {
    /// Ends the request with `fault`; the connection is cut.
    pub(super) fn fail(&mut self, fault: Fault) -> Box<Error> {
        let name = fault.as_str();
        self.fault = Some(fault);
        Error::explain(ErrorType::Custom("shapegate"), name)
    }

    /// Why the request failed: the fault noted, or what the error says.
    pub(super) fn fault(&mut self, error: &Error) -> Fault {
        self.fault.take().unwrap_or_else(|| Fault::of_client(error))
    }
}
