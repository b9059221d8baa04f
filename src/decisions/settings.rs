//! The settings of a service.

use std::time::Duration;

use crate::auth::Endpoint;
use crate::secret::Secret;

/// `[decisions.NAME]`: a policy decision point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Its base URL, and how it is reached. The timeout is for all pages of an answer together.
    pub endpoint: Endpoint,
    /// Whether its metadata (AuthZEN section 9) names the endpoints; otherwise they have their usual paths.
    pub discover: bool,
    /// The bearer token that is sent.
    pub token: Option<Secret>,
    /// The client's certificate and private key, both PEM.
    pub identity: Option<Secret>,
    /// How long an answer is cached, 1 s to 60 s. An answer that denies is cached for at most 5 s.
    pub cache: Duration,
    /// The most bytes that cached answers take.
    pub cache_bytes: usize,
    /// The most bytes of an answer, all its pages together.
    pub response_bytes: usize,
    /// The most ids that a search may find; more deny the request.
    pub most: usize,
}
