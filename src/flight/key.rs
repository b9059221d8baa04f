//! What two requests must have in common to share a response.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use super::source::Source;
use super::tail::ShapeId;
use crate::rewrite::UpstreamRequest;

/// The Electric that is asked, and the bytes of the request without the secret. Nothing else from a client reaches
/// Electric, so nothing else can make two responses differ (docs/security.md, C1, C2). What makes no difference to the
/// response is not among these bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlightKey {
    /// The hash of the other fields, made once: several tables find a flight by its key, and the texts are long.
    hash: u64,
    electric: Arc<str>,
    request: Arc<str>,
}

/// Random, so that no client can choose keys with the same hash.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Hash for FlightKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl FlightKey {
    /// Returns the key of a request to `source`.
    pub fn of(source: &dyn Source, request: &UpstreamRequest) -> Self {
        let (electric, request): (_, Arc<str>) = (source.identity(request), request.identity().into());
        Self { hash: HASHER.hash_one((&electric, &request)), electric, request }
    }

    /// Returns which of `count` parts of a table it belongs to.
    pub(super) fn part(&self, count: usize) -> usize {
        usize::try_from(self.hash % count as u64).unwrap_or_default()
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
