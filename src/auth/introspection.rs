//! Asks an issuer about tokens that only it can read (RFC 7662): opaque tokens and sessions.
//!
//! There is at most one request for a token at a time. A result is cached for a short time, under a hash of the whole
//! token. If the endpoint fails, no token is accepted or rejected until it responds again.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::form_urlencoded;

use super::bearer::BearerToken;
use super::error::{InvalidReason, TokenError};
use super::http::{Endpoint, FetchError, exchange, within};
use super::verdicts::{TokenCache, Weighed};
use crate::expiring::Expiring;
use crate::json;
use crate::secret::Secret;

/// `[issuer.introspection]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// The introspection endpoint.
    pub endpoint: Endpoint,
    /// The name by which this service authenticates there.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// How both are sent.
    pub auth: ClientAuth,
    /// How long a result is used at most; 1 s to 10 min.
    pub cache: Duration,
}

/// How a client authenticates (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the `Authorization` header.
    Basic,
    /// In the body.
    Post,
}

/// What an issuer says about a token.
pub(super) type Answer = Result<Map<String, Value>, TokenError>;

/// Introspects the tokens of one issuer.
pub(super) struct Introspection<T> {
    settings: IntrospectionSettings,
    client: OnceLock<Client>,
    outcomes: TokenCache<Outcome<T>>,
    in_flight: Semaphore,
    /// While the endpoint fails, it is not asked before this time.
    failing_until: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Outcome<T> {
    result: Result<T, TokenError>,
    until: Instant,
}

/// The most bytes of a response.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The most requests at the same time.
const CONCURRENT: usize = 64;

/// How long a rejection is used, and how long a failing endpoint is left alone.
const BRIEFLY: Duration = Duration::from_secs(1);

impl<T: Weighed> Introspection<T> {
    /// Caches results in at most `budget` bytes.
    pub(super) fn new(settings: IntrospectionSettings, budget: usize) -> Self {
        Self {
            settings,
            client: OnceLock::new(),
            outcomes: TokenCache::new(budget),
            in_flight: Semaphore::new(CONCURRENT),
            failing_until: Mutex::new(None),
        }
    }

    /// Whether it was created with these settings and this budget.
    pub(super) fn is(&self, settings: &IntrospectionSettings, budget: usize) -> bool {
        self.settings == *settings && self.outcomes.budget() == budget
    }

    /// Returns what the token was accepted as, if that is still fresh.
    pub(super) fn cached(&self, token: &BearerToken) -> Option<T> {
        let outcome = self.outcomes.find(token.digest()).filter(Outcome::is_valid)?;
        outcome.result.ok()
    }

    /// Returns the cached result for the token. Without one, asks the issuer and lets `judge` decide on what it says.
    pub(super) async fn verify(
        &self,
        token: &BearerToken,
        judge: impl FnOnce(Map<String, Value>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let asked = async {
            let result = self.ask(token).await.and_then(judge);
            let kept = if result.is_ok() { self.settings.cache } else { BRIEFLY };
            Outcome { result, until: Instant::now() + kept }
        };
        self.outcomes.find_or_make(token.digest(), asked).await.result
    }

    async fn ask(&self, token: &BearerToken) -> Answer {
        if self.is_failing() {
            return Err(UNAVAILABLE);
        }
        let asked = async {
            // The semaphore is never closed.
            let _place = self.in_flight.acquire().await;
            exchange(self.request(token)?, MAX_RESPONSE_BYTES).await
        };
        let answer = within(self.settings.endpoint.timeout, asked).await.map_err(|error| error.to_string());
        match answer.and_then(|document| read(&document.body)) {
            Ok(claims) => claims.ok_or(InvalidReason::Inactive.into()),
            Err(error) => {
                tracing::error!(error, "introspection failed; tokens cannot be checked");
                *self.failing_until() = Some(Instant::now() + BRIEFLY);
                Err(UNAVAILABLE)
            }
        }
    }

    fn request(&self, token: &BearerToken) -> Result<RequestBuilder, FetchError> {
        let IntrospectionSettings { endpoint, client_id, client_secret, auth, .. } = &self.settings;
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let client = endpoint.client(CONCURRENT)?;
                self.client.get_or_init(|| client)
            }
        };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token.as_str()).append_pair("token_type_hint", "access_token");
        let mut request = client.post(endpoint.url.clone()).header(ACCEPT, "application/json");
        match auth {
            ClientAuth::Basic => {
                let encode = |text| form_urlencoded::byte_serialize(text).collect::<String>();
                let pair = format!("{}:{}", encode(client_id.as_bytes()), encode(client_secret.expose().as_bytes()));
                request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
            }
            ClientAuth::Post => {
                form.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose());
            }
        }
        Ok(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.finish()))
    }

    fn is_failing(&self) -> bool {
        self.failing_until().is_some_and(|until| Instant::now() < until)
    }

    fn failing_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failing_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const UNAVAILABLE: TokenError = TokenError::Unavailable { retry_after: BRIEFLY };

impl<T: Clone> Expiring for Outcome<T> {
    fn until(&self) -> Instant {
        self.until
    }
}

impl<T: Weighed> Weighed for Outcome<T> {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.result.as_ref().map_or(0, Weighed::bytes)
    }
}

/// Reads a response: the claims of an active token, `None` for an inactive one (RFC 7662 section 2.2).
fn read(body: &[u8]) -> Result<Option<Map<String, Value>>, String> {
    let claims = json::parse_object(body).map_err(|error| error.to_string())?;
    match claims.get("active") {
        Some(Value::Bool(true)) => Ok(Some(claims)),
        Some(Value::Bool(false)) => Ok(None),
        _ => Err("the response has no boolean `active`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
