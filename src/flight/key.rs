//! What two requests must have in common to share a response.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::source::Source;
use super::tail::ShapeId;
use crate::rewrite::UpstreamRequest;

/// The Electric that is asked, and the bytes of the request without the secret. Nothing else from a client reaches
/// Electric, so nothing else can make two responses differ (docs/security.md, C1, C2). What makes no difference to the
/// response is not among these bytes.
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

    /// Returns the shape that the request belongs to.
    pub(super) fn shape(&self, request: &UpstreamRequest) -> ShapeId {
        ShapeId { electric: Arc::clone(&self.electric), shape: request.shape().into() }
    }

    pub(super) fn len(&self) -> usize {
        self.request.len()
    }
}

/// A shape and a handle, as a hash. If two collide, a purge drops more than needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey(u64);

impl ShapeKey {
    /// Returns the key of a shape (see `UpstreamRequest::shape`) and one of its handles. Both are needed: a client that
    /// requests its own shape with another shape's handle is answered 409, and this must not purge the other shape.
    pub(super) fn new(shape: &str, handle: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (shape, handle).hash(&mut hasher);
        Self(hasher.finish())
    }
}
