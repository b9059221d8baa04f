//! Settings for sharing and caching responses.

use std::time::Duration;

/// `[cache]`.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Bytes of finished responses that are cached; 0 turns the cache off.
    pub bytes: usize,
    /// Bytes of one response up to which new followers can join. A longer one is not cached either.
    pub flight_bytes: usize,
    /// The longest that a response is fresh, whatever Electric says.
    pub max_age: Duration,
    /// How long a request to Electric goes on after its last client has left.
    pub grace: Duration,
    /// The age up to which a stream of events can be joined.
    pub sse_join: Duration,
    /// Whether responses are compressed for clients that accept it.
    pub compress: bool,
    /// Bytes below which a response is not compressed.
    pub compress_min: usize,
    /// Whether responses carry `shapegate-cache`.
    pub header: bool,
}
