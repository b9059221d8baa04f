//! The name of an Electric upstream.

use std::sync::Arc;

/// The name of an upstream: NAME of `[upstreams.NAME]`, or [`UpstreamName::DEFAULT`] for `[upstream]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamName(Option<Arc<str>>);

impl UpstreamName {
    /// The name of `[upstream]`.
    pub const DEFAULT: &str = "default";

    /// Creates a name from the configuration; `default` gives the default upstream.
    pub fn new(name: &str) -> Self {
        Self(Some(name).filter(|name| *name != Self::DEFAULT).map(Into::into))
    }

    /// The name. It comes from the configuration only, never from a request.
    pub fn as_str(&self) -> &str {
        self.named().unwrap_or(Self::DEFAULT)
    }

    /// The name, or `None` for the default upstream.
    pub fn named(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
