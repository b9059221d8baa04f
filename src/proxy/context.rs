//! What one request carries from phase to phase.

use bytes::{Bytes, BytesMut};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};

use super::admit::Admission;
use super::reply::{self, Edge, RefusedParameters};
use crate::auth::TokenVerifier;
use crate::fault::Fault;
use crate::telemetry::Record;

/// One request: its state, and what observers are told.
#[derive(Debug, Default)]
pub struct RequestCtx {
    pub(super) phase: Phase,
    pub(super) edge: Edge,
    pub(super) record: Record,
    pub(super) error_body: Option<ErrorBody>,
    /// Connections to Electric that could not be opened.
    pub(super) refusals: usize,
    /// Whether a connection that Electric had closed was already replaced.
    pub(super) retried: bool,
    fault: Option<Fault>,
}

/// How far the request is.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Admitted: what follows writes only what was built.
    Admitted(Admission),
    /// Answered, by Electric or by us.
    Answered,
    #[default]
    Received,
}

impl RequestCtx {
    /// The admission; a phase that runs without one fails the request.
    pub(super) fn admission(&self) -> Result<&Admission> {
        match &self.phase {
            Phase::Admitted(admission) => Ok(admission),
            Phase::Answered | Phase::Received => {
                Err(Error::explain(ErrorType::InternalError, Fault::WrongPhase.as_str()))
            }
        }
    }

    /// Ends the request with `fault`.
    pub(super) fn fail(&mut self, fault: Fault) -> Box<Error> {
        let name = fault.as_str();
        self.fault = Some(fault);
        Error::explain(ErrorType::Custom("shapegate"), name)
    }

    /// Why the request failed: the fault noted, the token's end, or what the error says.
    pub(super) fn fault(&mut self, error: &Error, verifier: &TokenVerifier) -> Fault {
        if let Some(fault) = self.fault.take() {
            return fault;
        }
        let fault = Fault::of(error);
        if fault != Fault::UpstreamTimeout {
            return fault;
        }
        // The wait was cut to the token's life, so its end looks like a silent Electric.
        self.admission().ok().and_then(|admission| admission.recheck(verifier).err()).unwrap_or(fault)
    }

    /// Notes a 400 of Electric that is not the client's doing, and gives the body for the client.
    pub(super) fn record_refusal(&mut self, refused: RefusedParameters) -> Bytes {
        if let Some(words) = &refused.rule_fault {
            self.record.outcome = Fault::UpstreamRefused(400).as_str();
            let (request_id, rule) = (&self.record.request_id, self.record.rule_name());
            tracing::warn!(%request_id, rule, electric = ?words, "Electric refused what the rule made of a request");
        }
        refused.body
    }

    pub(super) fn preflight(&mut self, request: &RequestHeader) -> Result<ResponseHeader> {
        self.record.outcome = "preflight";
        self.edge.preflight_header(request, &self.record.request_id)
    }
}

/// The body of Electric's 400, held back until it is whole and then cut to what a client may see (SECURITY Q14).
#[derive(Debug, Default)]
pub(super) struct ErrorBody(BytesMut);

impl ErrorBody {
    /// Takes a chunk; gives the whole answer at the end.
    pub(super) fn take(&mut self, chunk: Option<Bytes>, end: bool) -> Option<RefusedParameters> {
        let room = reply::MAX_ERROR_BODY.saturating_sub(self.0.len());
        if let Some(chunk) = chunk {
            self.0.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        end.then(|| reply::refused_parameters(&self.0))
    }
}
