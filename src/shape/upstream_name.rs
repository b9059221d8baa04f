//! What an Electric is called.

use std::sync::Arc;

/// The name of an Electric: of an `[upstreams.NAME]`, or [`UpstreamName::DEFAULT`] for `[upstream]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamName(Option<Arc<str>>);

impl UpstreamName {
    /// What `[upstream]` is called.
    pub const DEFAULT: &str = "default";

    /// Of a name as the file writes it.
    pub fn new(name: &str) -> Self {
        Self(Some(name).filter(|name| *name != Self::DEFAULT).map(Into::into))
    }

    /// The name; made from the configuration alone.
    pub fn as_str(&self) -> &str {
        self.named().unwrap_or(Self::DEFAULT)
    }

    /// The name of one that is not the default.
    pub fn named(&self) -> Option<&str> {
        self.0.as_deref()
    }
}
