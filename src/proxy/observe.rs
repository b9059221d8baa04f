//! Records the end of a request: access log, metrics, audit, spans.

use http::StatusCode;
use pingora::protocols::http::ServerSession;
use pingora_proxy::Session;

use super::context::{ClientRequest, RequestContext};
use super::gateway::Gateway;
use crate::telemetry::{Asked, Reading};

impl Gateway {
    /// Records a request whose phases have ended.
    pub(super) async fn observe(&self, session: &mut Session, context: &mut RequestContext) {
        match std::mem::take(context) {
            RequestContext::Client(mut client) => self.answered(&session.downstream_session, &mut client),
            RequestContext::Flight(exchange) => exchange.conclude().await,
            // A waiting request is recorded when its wait ends.
            RequestContext::Waiting | RequestContext::New => {}
        }
    }

    /// Records a client's request that was answered, or whose client has disconnected.
    pub(super) fn answered(&self, session: &ServerSession, client: &mut ClientRequest) {
        let by_session = || Some((session.response_written()?.status, session.body_bytes_sent()));
        let sent = client.sent.or_else(by_session);
        // 0: there was no response.
        let (status, bytes) = sent.map_or((0, 0), |(status, bytes)| (status.as_u16(), bytes));
        let request = session.req_header();
        let peer = client.arrival.connection.peer();
        let asked = Asked {
            method: &request.method,
            target: &request.uri,
            client: self.limiter.client_address(peer, &request.headers),
        };
        let record = &mut client.record;
        record.count(&self.metrics, status, bytes);
        if let Some(audit) = &self.audit {
            let rejected = record.reason.map(|reason| Reading::denied(record, reason));
            let reading = rejected.or_else(|| record.reading.take().filter(|_| holds_rows(status)));
            if let Some(reading) = reading {
                audit.record(reading, bytes, self.clock.now());
            }
        }
        record.log(&asked, status, bytes);
        if let Some(tracer) = &self.tracer {
            tracer.answered(record, &request.method, request.version, status, bytes);
        }
    }
}

/// Whether a response with this status reveals rows of a shape to its client.
fn holds_rows(status: u16) -> bool {
    [StatusCode::OK, StatusCode::NOT_MODIFIED].iter().any(|rows| rows.as_u16() == status)
}
