//! What one HTTP/2 connection may take.

use pingora::protocols::http::v2::server::H2Options;

use super::Http2Settings;
use crate::limits::LimitSettings;
use crate::shape::MAX_BODY_BYTES;

/// The bounds of each connection, set out loud: the library's own are for other traffic, and some are none.
pub(super) struct Http2 {
    streams: usize,
}

impl Http2 {
    pub(super) const fn new(settings: &Http2Settings) -> Self {
        Self { streams: settings.streams }
    }

    /// What is negotiated with a new connection.
    pub(super) fn options(&self, limits: &LimitSettings) -> H2Options {
        let mut options = H2Options::default();
        options
            // A browser holds one connection, and on it a poll for each shape of each of its tabs.
            .max_concurrent_streams(u32::try_from(self.streams).unwrap_or(u32::MAX))
            // What a header may have over HTTP/1.1 fits, so that it is `check_headers` that refuses, with an answer
            // that a browser shows. What is longer still is 431 from the library, unread.
            .max_header_list_size(header_list(limits))
            // A client sends nothing but the body of a subset, which fits a stream's window whole.
            .initial_window_size(STREAM_WINDOW)
            // Bodies that nobody has read yet: the most that one connection can make us hold.
            .initial_connection_window_size(BODIES * STREAM_WINDOW)
            .max_frame_size(FRAME)
            // Streams that a client opened and reset before they were looked at (rapid reset, CVE-2023-44487). A page
            // that is left resets all of its polls at one time; above that the connection is closed.
            .max_pending_accept_reset_streams(self.streams)
            // Streams reset here are remembered for frames under way, so many and for so long.
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_MEMORY)
            // Streams that the library resets because their client broke the protocol, in a connection's whole life.
            .max_local_error_reset_streams(Some(PROTOCOL_ERRORS));
        options
    }
}

/// The largest body, with room for nothing more.
const STREAM_WINDOW: u32 = MAX_BODY_BYTES as u32;

const BODIES: u32 = 4;

/// The least that HTTP/2 allows, and its default (RFC 9113 section 6.5.2).
const FRAME: u32 = 16 * 1024;

const RESET_STREAMS: usize = 50;

const RESET_MEMORY: std::time::Duration = std::time::Duration::from_secs(1);

const PROTOCOL_ERRORS: usize = 256;

/// Headers and target, each with what HTTP/2 counts for it beside its bytes (RFC 9113 section 6.5.2), twice: a header
/// that is somewhat too long is to be told so.
fn header_list(limits: &LimitSettings) -> u32 {
    const OVERHEAD: usize = 32;
    const PSEUDO_HEADERS: usize = 5;
    let bytes = limits.header_bytes + limits.uri_bytes + (limits.headers + PSEUDO_HEADERS) * OVERHEAD;
    u32::try_from(2 * bytes).unwrap_or(u32::MAX)
}
