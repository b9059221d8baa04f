//! What two requests must agree on to share one answer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::hub::Source;
use crate::rewrite::UpstreamRequest;

/// The Electric that is asked, and the bytes of the request without the secret. Nothing else from a client reaches
/// Electric, so nothing else can make two responses differ (docs/security.md, C1, C2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlightKey {
    electric: Arc<str>,
    request: Arc<str>,
}

impl FlightKey {
    /// Returns the key of a request to `source`.
    pub fn of(source: &dyn Source, request: &UpstreamRequest) -> Self {
        Self { electric: source.identity(request), request: request.identity().into() }
    }

    pub(super) fn len(&self) -> usize {
        self.request.len()
    }
}

/// One shape under one handle, as a hash: where two of them collide, a purge drops more than it had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey(u64);

impl ShapeKey {
    /// The shape, as `UpstreamRequest::shape` has it, belongs to it: somebody who asks for his own shape under another's
    /// handle is answered 409, and must not be able to purge what is not his.
    pub(super) fn new(shape: &str, handle: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (shape, handle).hash(&mut hasher);
        Self(hasher.finish())
    }
}
