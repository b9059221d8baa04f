//! Compression: each flight is compressed once for each encoding, for any number of clients.

use std::io::Write;

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::chain::{Piece, Reader, Writer};
use crate::fault::Fault;

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `zstd` (RFC 8878).
    Zstd,
    /// `br` (RFC 7932).
    Brotli,
    /// `gzip` (RFC 1952).
    Gzip,
}

impl Encoding {
    /// All encodings; if a client likes several equally, the first of them is used.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Returns the name in headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Returns the encoding that a client prefers (RFC 9110 section 12.5.3); `None` if it accepts none of them.
    pub fn choose(request: &HeaderMap) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        let accepted = request.get_all(ACCEPT_ENCODING).iter();
        let items = accepted.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        for item in items {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let Some(encoding) = Self::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(name.trim()))
            else {
                continue;
            };
            let quality = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse).unwrap_or(0.0);
            let wins = best.is_none_or(|(best, known)| {
                quality > best || (quality == best && (encoding as usize) < (known as usize))
            });
            if quality > 0.0 && wins {
                best = Some((quality, encoding));
            }
        }
        best.map(|(_, encoding)| encoding)
    }
}

/// Compresses a body while it arrives.
pub(super) async fn encode(encoding: Encoding, mut identity: Reader, mut writer: Writer) {
    let Ok(mut encoder) = Encoder::new(encoding) else { return writer.fail(Fault::Internal) };
    loop {
        let piece = identity.next().await;
        let mut rest = piece.bytes;
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(SLICE));
            let last = rest.is_empty() && piece.end.is_some();
            // Flush if this is all there is so far: followers that wait for the next piece get this one.
            let Ok(bytes) = encoder.write(&part, !last && rest.is_empty()) else {
                return writer.fail(Fault::Internal);
            };
            if !bytes.is_empty() {
                // The readers of the compressed body may hold up those of the body itself.
                let room = tokio::select! {
                    room = writer.room(bytes.len()) => room,
                    () = identity.overtaken() => return writer.fail(Fault::SlowReader),
                };
                writer.push(Piece { bytes, end: None, boundary: true }, room);
                writer.publish();
            }
            // Let other tasks run on this thread.
            tokio::task::yield_now().await;
        }
        match piece.end {
            None => {}
            Some(Ok(())) => {
                let Ok(last) = encoder.finish() else { return writer.fail(Fault::Internal) };
                writer.seal(last);
                return writer.finish();
            }
            Some(Err(fault)) => return writer.fail(fault),
        }
    }
}

/// The most bytes that are compressed without a pause: a few milliseconds of CPU time.
const SLICE: usize = 64 * 1024;

/// Levels at which one core compresses tens of megabytes a second; each response is compressed once for all clients.
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW: u32 = 20;
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

enum Encoder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(encoding: Encoding) -> std::io::Result<Self> {
        Ok(match encoding {
            Encoding::Brotli => {
                Self::Brotli(Box::new(CompressorWriter::new(Vec::new(), SLICE, BROTLI_QUALITY, BROTLI_WINDOW)))
            }
            Encoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Encoding::Zstd => Self::Zstd(ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    /// Compresses `bytes`. With `flush`, a client can decode everything so far.
    fn write(&mut self, bytes: &[u8], flush: bool) -> std::io::Result<Bytes> {
        let writer: &mut dyn Write = match self {
            Self::Brotli(writer) => writer,
            Self::Gzip(writer) => writer,
            Self::Zstd(writer) => writer,
        };
        writer.write_all(bytes)?;
        if flush {
            writer.flush()?;
        }
        Ok(std::mem::take(match self {
            Self::Brotli(writer) => writer.get_mut(),
            Self::Gzip(writer) => writer.get_mut(),
            Self::Zstd(writer) => writer.get_mut(),
        })
        .into())
    }

    fn finish(self) -> std::io::Result<Bytes> {
        Ok(match self {
            Self::Brotli(writer) => writer.into_inner(),
            Self::Gzip(writer) => writer.finish()?,
            Self::Zstd(writer) => writer.finish()?,
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn chosen(accepted: &'static str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
        Encoding::choose(&headers).map(Encoding::as_str)
    }

    #[test]
    fn the_client_s_preference_decides_and_our_order_breaks_ties() {
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("gzip;q=1.0, br;q=0.5", Some("gzip")),
            ("GZIP", Some("gzip")),
            ("gzip; q=0.1", Some("gzip")),
            ("gzip;q=0, br;q=0.000", None),
            ("gzip;q=x", None),
            ("identity", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(chosen(accepted), expected, "{accepted}");
        }
    }
}
