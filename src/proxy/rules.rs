//! What a reload replaces, as a whole: each request is judged by one set of rules.

use std::sync::Arc;
use std::time::Duration;

use super::cors::CorsPolicy;
use crate::auth::TokenVerifier;
use crate::flight::CacheSettings;
use crate::flight::Source;
use crate::gatekeeper::Gatekeeper;
use crate::limits::LimitSettings;
use crate::policy::PolicySet;
use crate::upstream::Upstreams;

/// The configuration that requests are judged by.
pub struct Rules {
    /// Goes up with each reload.
    pub generation: u64,
    /// Checks tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Decides who may read which rows.
    pub policy: PolicySet,
    /// Mints tokens for one shape; `None` if it is not configured.
    pub gatekeeper: Option<Gatekeeper>,
    /// What browsers are told.
    pub cors: CorsPolicy,
    /// Sizes and times.
    pub limits: LimitSettings,
    /// Settings of sharing and compression.
    pub cache: CacheSettings,
    /// Every Electric.
    pub upstreams: Arc<Upstreams>,
    /// Answers flights from `upstreams`. A request is fetched by the rules that judged it.
    pub electric: Arc<dyn Source>,
}

/// What waiting requests are told about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The generation of the current rules.
    pub generation: u64,
    /// Whether the process is about to stop.
    pub stopping: bool,
    /// While the process stops, event streams end within this time, each at a random moment: their clients reconnect at
    /// once, and should not all do so together.
    pub leave_within: Duration,
}
