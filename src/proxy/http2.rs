//! Limits of one HTTP/2 connection.

use pingora::protocols::http::v2::server::H2Options;

use super::HttpSettings;
use crate::limits::LimitSettings;

/// The limits of each connection. All are set explicitly: some defaults of the h2 crate are unlimited, and the others
/// suit other traffic.
pub(super) struct Http2 {
    streams: usize,
}

impl Http2 {
    pub(super) const fn new(settings: &HttpSettings) -> Self {
        Self { streams: settings.h2_streams }
    }

    /// Returns the settings of a new connection.
    pub(super) fn options(&self, limits: &LimitSettings) -> H2Options {
        let mut options = H2Options::default();
        options
            // A browser has one connection, with a long poll for each shape of each of its tabs.
            .max_concurrent_streams(u32::try_from(self.streams).unwrap_or(u32::MAX))
            // Large enough for every header that is allowed over HTTP/1.1, so that `check_headers` rejects a longer one
            // with a body and CORS headers. The h2 crate rejects still longer ones with a bare 431.
            .max_header_list_size(header_list(limits))
            // The only body that a client sends describes a subset, and most fit. A longer one is read as it arrives.
            .initial_window_size(STREAM_WINDOW)
            // Bounds the unread bodies that one connection can make us buffer.
            .initial_connection_window_size(BODIES * STREAM_WINDOW)
            .max_frame_size(FRAME)
            // Streams that a client opens and resets before they are accepted (rapid reset, CVE-2023-44487). A browser
            // that leaves a page resets all of its polls together, so as many are allowed; more close the connection.
            .max_pending_accept_reset_streams(self.streams)
            // How many streams that we reset are remembered, and for how long, since frames for them may still arrive.
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_MEMORY)
            // Streams that the h2 crate resets for protocol errors of the client, over the life of the connection.
            .max_local_error_reset_streams(Some(PROTOCOL_ERRORS));
        options
    }
}

/// How many bytes of a body may be unread.
const STREAM_WINDOW: u32 = 64 * 1024;

/// How many full windows one connection may have unread.
const BODIES: u32 = 4;

/// The smallest maximum frame size that HTTP/2 allows, and its default (RFC 9113 section 6.5.2).
const FRAME: u32 = 16 * 1024;

const RESET_STREAMS: usize = 50;

const RESET_MEMORY: std::time::Duration = std::time::Duration::from_secs(1);

const PROTOCOL_ERRORS: usize = 256;

/// Returns twice the size of the largest allowed header list, target included. HTTP/2 counts 32 bytes more for each
/// field (RFC 9113 section 6.5.2). The factor leaves room for headers that `check_headers` is to reject.
fn header_list(limits: &LimitSettings) -> u32 {
    const OVERHEAD: usize = 32;
    const PSEUDO_HEADERS: usize = 5;
    let bytes = limits.header_bytes + limits.uri_bytes + (limits.headers + PSEUDO_HEADERS) * OVERHEAD;
    u32::try_from(2 * bytes).unwrap_or(u32::MAX)
}
