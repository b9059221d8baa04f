//! CORS headers (Fetch standard, section 3.3). They are computed for each client, never copied from Electric.

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderName, ORIGIN,
};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

use super::settings::{CorsSettings, Origins};

/// Decides which origins may read responses.
#[derive(Clone, Debug)]
pub struct CorsPolicy(CorsSettings);

/// The CORS headers of one response. The default sends none, so browsers block the response.
#[derive(Clone, Debug, Default)]
pub(super) struct CorsAnswer {
    allow_origin: Option<HeaderValue>,
    credentials: bool,
    /// Whether the headers depend on the request's origin. The response then needs `Vary: Origin`.
    pub(super) varies: bool,
    /// Whether responses depend on cookies.
    pub(super) cookies: bool,
    max_age: u64,
}

impl CorsPolicy {
    /// Returns the policy that the configuration describes.
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
            cookies: self.0.cookies,
            max_age: self.0.max_age.as_secs(),
        }
    }
}

impl CorsAnswer {
    /// Writes the headers of every response, preflight or not.
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

    /// Adds the headers of a preflight response. A preflight needs no token, since browsers send none with it (Fetch
    /// standard, section 4.8).
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

/// Returns the headers that a browser may send: all those it asks for, since none of them is forwarded.
fn allowed_headers(request: &RequestHeader) -> HeaderValue {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-_, ".contains(b);
    request
        .headers
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(|names| !names.is_empty() && names.len() <= 1024 && names.as_bytes().iter().all(is_name))
        .cloned()
        .unwrap_or(HeaderValue::from_static("authorization"))
}

/// The response headers that scripts may read: Electric's list (docs/electric.md, "CORS") and our own headers.
const EXPOSED: &str = "electric-cursor,electric-handle,electric-has-data,electric-internal-known-error,electric-offset,\
electric-schema,electric-snapshot,electric-up-to-date,etag,retry-after,www-authenticate,x-request-id";
