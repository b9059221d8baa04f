//! Writes lines for journald: each with its priority, without a timestamp, since journald adds its own (sd-daemon(3)).

use std::fmt::Display;
use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::lines::LineQueue;

/// Whether standard error is connected to journald (systemd.exec(5), `$JOURNAL_STREAM`).
pub(super) fn is_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // A child may have inherited the variable but not the stream.
    rustix::fs::fstat(io::stderr()).is_ok_and(|file| names(&stream, &file.st_dev, &file.st_ino))
}

/// Whether `stream` names a file by its device and inode. Their types differ between systems.
fn names(stream: &str, device: &dyn Display, inode: &dyn Display) -> bool {
    stream == format!("{device}:{inode}")
}

/// Puts the priority before each line.
#[derive(Debug)]
pub(super) struct Journal(pub(super) LineQueue);

/// The queue, and the prefix of the line that will be written.
pub(super) struct PrefixedLine<'a>(&'a LineQueue, &'static str);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = PrefixedLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        PrefixedLine(&self.0, prefix(Level::INFO))
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        PrefixedLine(&self.0, prefix(*metadata.level()))
    }
}

/// Returns the priority of a level: 3 is an error, 4 a warning, 6 information, 7 for debugging (RFC 5424 section 6.2.1).
const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// `tracing_subscriber` writes each entry in one call, its newline included.
impl Write for PrefixedLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.offer([self.1.as_bytes(), line].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_by_device_and_inode() {
        assert!(names("9:1234567", &9, &1_234_567));
        for other in ["", "9", "9:", "9:1234568", "8:1234567", "9:1234567:1", "x:1234567"] {
            assert!(!names(other, &9, &1_234_567), "{other}");
        }
    }
}
