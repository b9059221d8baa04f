//! CORS (Fetch standard, section 3.3): computed for each client, never taken from Electric.

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderName, ORIGIN,
};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::settings::{CorsSettings, Origins};

/// Which origins may read answers, and what browsers are told of it.
#[derive(Clone, Debug)]
pub struct CorsPolicy(CorsSettings);

/// What one request's origin is told; the default tells nothing, which every browser takes for a no.
#[derive(Clone, Debug, Default)]
pub(super) struct CorsAnswer {
    allow_origin: Option<HeaderValue>,
    credentials: bool,
    /// Whether the answer depends on the origin, so that a cache must keep one for each.
    pub(super) varies: bool,
    max_age: u64,
}

impl CorsPolicy {
    /// The policy of the configuration.
    pub fn new(cors: CorsSettings) -> Self {
        Self(cors)
    }

    pub(super) fn answer(&self, request: &RequestHeader) -> CorsAnswer {
        let mut origins = request.headers.get_all(ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (Some(origin), None) => Some(origin),
            _ => None,
        };
        let allow_origin = match &self.0.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::List(list) => {
                origin.filter(|origin| list.iter().any(|one| one.as_bytes() == origin.as_bytes())).cloned()
            }
        };
        CorsAnswer {
            credentials: self.0.credentials && allow_origin.is_some(),
            allow_origin,
            varies: matches!(self.0.origins, Origins::List(_)),
            max_age: self.0.max_age.as_secs(),
        }
    }
}

impl CorsAnswer {
    /// What every answer says.
    pub(super) fn fields(&self, mut put: impl FnMut(HeaderName, HeaderValue) -> Result<()>) -> Result<()> {
        let Some(origin) = &self.allow_origin else {
            return Ok(());
        };
        put(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())?;
        put(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED))?;
        if self.credentials {
            put(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"))?;
        }
        Ok(())
    }

    /// A preflight is answered without a token: browsers send none (Fetch standard, section 4.8).
    pub(super) fn write_preflight(
        &self,
        request: &RequestHeader,
        methods: &'static str,
        header: &mut ResponseHeader,
    ) -> Result<()> {
        if self.allow_origin.is_none() {
            return Ok(());
        }
        header.insert_header(ACCESS_CONTROL_ALLOW_METHODS, methods)?;
        header.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request))?;
        header.insert_header(ACCESS_CONTROL_MAX_AGE, self.max_age.to_string())?;
        Ok(())
    }
}

/// What the client asks to send: none of it goes upstream, so none of it needs to be refused.
fn allowed_headers(request: &RequestHeader) -> HeaderValue {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-_, ".contains(b);
    request
        .headers
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(|names| !names.is_empty() && names.len() <= 1024 && names.as_bytes().iter().all(is_name))
        .cloned()
        .unwrap_or(HeaderValue::from_static("authorization"))
}

/// Electric's own list (docs/electric.md, "CORS"), and what else a client of ours reads.
const EXPOSED: &str = "electric-cursor,electric-handle,electric-has-data,electric-internal-known-error,electric-offset,\
electric-schema,electric-snapshot,electric-up-to-date,etag,retry-after,www-authenticate,x-request-id";
