//! Shortens request targets that no parser accepts, so that they get a response that a browser can read.
//!
//! The `http` crate accepts targets of at most 65,534 bytes. Pingora answers longer ones with a bare 400, without CORS
//! headers, which a browser takes for a network failure and retries forever. So a target is cut here to one byte more
//! than `uri_bytes` can be: it is then rejected with 414, as every target that is too long.

use bytes::{BufMut, BytesMut};

use crate::limits::MAX_URI_BYTES;

/// The bytes of a target that are kept. They are too many for every configuration.
const KEPT: usize = MAX_URI_BYTES + 1;

/// The most bytes that are read for one request line. Pingora rejects the rest, as it does for long headers.
const MOST: usize = 1024 * 1024;

/// Reads a request line until its target is complete.
#[derive(Debug, Default)]
pub(super) struct RequestLine {
    part: Part,
    read: usize,
    target: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Empty lines before the request (RFC 9112 section 2.2).
    #[default]
    Before,
    Method,
    Target,
}

impl RequestLine {
    /// Whether these first bytes contain a whole request line, as most do. It is then short enough.
    pub(super) fn is_whole(first: &[u8]) -> bool {
        let line = first.iter().position(|byte| !is_break(*byte));
        line.is_some_and(|start| first[start..].contains(&b'\n'))
    }

    /// Moves further bytes to `head`, except those of a target that is too long. Returns whether the target is
    /// complete; the rest of `bytes` is then moved too.
    pub(super) fn read(&mut self, bytes: &[u8], head: &mut BytesMut) -> bool {
        self.read += bytes.len();
        for (at, byte) in bytes.iter().enumerate() {
            let over = is_break(*byte);
            self.part = match self.part {
                Part::Before if over => Part::Before,
                Part::Before => Part::Method,
                Part::Method if *byte == b' ' => Part::Target,
                Part::Method if !over => Part::Method,
                Part::Target if !over && *byte != b' ' => {
                    self.target += 1;
                    Part::Target
                }
                Part::Method | Part::Target => {
                    head.extend_from_slice(&bytes[at..]);
                    return true;
                }
            };
            if self.target <= KEPT {
                head.put_u8(*byte);
            }
        }
        self.read > MOST || head.len() > 2 * KEPT
    }
}

const fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `request` in pieces of `size` bytes.
    fn shortened(request: &str, size: usize) -> (String, bool) {
        let (mut line, mut head, mut done) = (RequestLine::default(), BytesMut::new(), false);
        for piece in request.as_bytes().chunks(size) {
            if done {
                head.extend_from_slice(piece);
            } else {
                done = line.read(piece, &mut head);
            }
        }
        (String::from_utf8(head.to_vec()).unwrap(), done)
    }

    #[test]
    fn only_a_target_that_is_too_long_is_shortened() {
        let request = |target: usize| {
            format!(
                "\r\nGET /{} HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\nbody",
                "a".repeat(target - 1),
                "b".repeat(70_000)
            )
        };
        for size in [1, 2048, 200_000] {
            for fits in [1, 100, KEPT] {
                assert_eq!(shortened(&request(fits), size), (request(fits), true), "{fits} {size}");
            }
            for long in [KEPT + 1, 65_535, 900_000] {
                assert_eq!(shortened(&request(long), size), (request(KEPT), true), "{long} {size}");
            }
        }
    }

    #[test]
    fn what_is_no_request_line_is_left_to_the_parser() {
        for text in ["GET\r\n\r\n", "\n\n\nGET /\n", "GET  /a b\r\n", "\u{16}\u{3}\u{1} x\n"] {
            assert_eq!(shortened(text, 3), (text.to_owned(), true), "{text:?}");
        }
        assert_eq!(shortened("\r\n\r\n", 1), ("\r\n\r\n".to_owned(), false));
        // An endless method or target is read up to a bound.
        let (head, done) = shortened(&"A".repeat(3 * KEPT), 2048);
        assert!(done && head.len() == 3 * KEPT);
        let (head, done) = shortened(&format!("GET {}", "a".repeat(MOST)), 2048);
        assert!(done && head.len() == 4 + KEPT, "{}", head.len());
    }

    #[test]
    fn a_whole_request_line_is_recognized() {
        for whole in ["GET / HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\n", "x\n"] {
            assert!(RequestLine::is_whole(whole.as_bytes()), "{whole:?}");
        }
        for part in ["", "\r\n", "GET / HTTP/1.1", "\r\nGET / HTTP/1.1\r"] {
            assert!(!RequestLine::is_whole(part.as_bytes()), "{part:?}");
        }
    }
}
