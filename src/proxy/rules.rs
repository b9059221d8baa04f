//! The configuration that a reload replaces as a whole. Each request is judged by one version of it.

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
    /// Increases with each reload.
    pub generation: u64,
    /// Checks tokens.
    pub verifier: Arc<TokenVerifier>,
    /// Decides who may read which rows.
    pub policy: PolicySet,
    /// Mints tokens for one shape; `None` if it is not configured.
    pub gatekeeper: Option<Gatekeeper>,
    /// Decides which origins may read responses.
    pub cors: CorsPolicy,
    /// Limits on sizes, times and rates.
    pub limits: LimitSettings,
    /// Settings of sharing and compression.
    pub cache: CacheSettings,
    /// Every configured Electric.
    pub upstreams: Arc<Upstreams>,
    /// Fetches responses from `upstreams`. A request is fetched with the rules that allowed it.
    pub electric: Arc<dyn Source>,
}

/// A reload, a change of the revocations or a stop, as waiting requests are notified of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The generation of the current rules.
    pub generation: u64,
    /// The number of the last change of the revocations.
    pub revocations: u64,
    /// Whether the process is about to stop.
    pub stopping: bool,
    /// While the process stops, event streams end within this time, each at a random moment: their clients reconnect at
    /// once, and should not all do so together.
    pub leave_within: Duration,
}
