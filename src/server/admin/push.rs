//! `POST /revocations`: an operator revokes tokens at once.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Response, StatusCode};
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::{Admin, TEXT, answer};
use crate::auth::RevocationSettings;
use crate::auth::revocation::Push;

/// The most bytes of a body.
const MAX_BODY: usize = 256 * 1024;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The status of a push that is not taken, and why.
type Refusal = (StatusCode, String);

impl Admin {
    /// Adds the revocations in the body, which has the form of the list.
    pub(super) async fn push(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        match self.pushed(session).await {
            Ok(taken) => answer(StatusCode::OK, "application/json", format!("{taken}\n").into_bytes()),
            Err((status, why)) => {
                // What is left of the body must not be taken for the next request.
                session.set_keepalive(None);
                answer(status, TEXT, format!("{why}\n").into_bytes())
            }
        }
    }

    async fn pushed(&self, session: &mut ServerSession) -> Result<serde_json::Value, Refusal> {
        let revocations = self.gateway.rules().verifier.revocations().clone();
        let settings = revocations.settings().filter(|settings| settings.secret.is_some());
        let settings = settings.ok_or((StatusCode::NOT_FOUND, "set revocation.secret to enable pushes".to_owned()))?;
        authorize(session, &settings)?;
        let body = timeout(BODY_TIMEOUT, read_body(session)).await;
        let body = body.unwrap_or(Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in 5 s".to_owned())))?;
        let keep = settings.keep;
        // On a blocking thread: it writes them to the state folder.
        let push = tokio::task::spawn_blocking(move || revocations.push(&body, keep)).await;
        let push = push.map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "see the log".to_owned()))?;
        let Push { count, saved } = push.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        tracing::info!(count, saved, "revocations pushed");
        Ok(serde_json::json!({ "revoked": count, "seconds": keep.as_secs(), "saved": saved }))
    }
}

/// Checks method, origin and secret, in this order.
fn authorize(session: &ServerSession, settings: &RevocationSettings) -> Result<(), Refusal> {
    let request = session.req_header();
    if request.method != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only".to_owned()));
    }
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical());
    if !settings.remote_push && !peer.is_some_and(|peer| peer.is_loopback()) {
        let why = "only from this host, unless revocation.danger_remote_push is set";
        return Err((StatusCode::FORBIDDEN, why.to_owned()));
    }
    let sent = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let known = |sent: &str| settings.secret.as_ref().is_some_and(|secret| secret.is(sent));
    if sent.is_some_and(known) {
        Ok(())
    } else {
        Err((StatusCode::UNAUTHORIZED, "send revocation.secret as `Authorization: Bearer SECRET`".to_owned()))
    }
}

async fn read_body(session: &mut ServerSession) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    let broken = |_| (StatusCode::BAD_REQUEST, "the body is cut off".to_owned());
    while let Some(part) = session.read_request_body().await.map_err(broken)? {
        if body.len() + part.len() > MAX_BODY {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body has more than 256 KiB".to_owned()));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
