//! What the configuration says of sharing and keeping answers.

use std::time::Duration;

/// `[cache]`.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Bytes of finished answers kept; 0 keeps none.
    pub bytes: usize,
    /// Bytes of one answer that newcomers can still join; a longer one is not kept either.
    pub flight_bytes: usize,
    /// The longest an answer is fresh, whatever Electric says.
    pub max_age: Duration,
    /// How long a request to Electric goes on when nobody waits for it any more.
    pub grace: Duration,
    /// How old a stream of events may be for newcomers.
    pub sse_join: Duration,
    /// Whether answers are compressed for clients that accept it.
    pub compress: bool,
    /// Bytes below which an answer is not.
    pub compress_min: usize,
    /// Whether answers carry `shapegate-cache`.
    pub header: bool,
}
