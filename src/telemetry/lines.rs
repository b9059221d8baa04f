//! Writes lines to a file or a pipe without making the caller wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// A bounded queue of lines, and a thread that writes them. A line that finds the queue full is dropped and counted.
#[derive(Clone, Debug)]
pub(super) struct LineQueue {
    sender: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// Answered once everything queued before it is written.
    Flush(SyncSender<()>),
}

/// A destination of lines. A call may take as long as it needs.
pub(super) trait LineSink: Send + 'static {
    /// Writes one line, its newline included; `Err` if it is lost.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()>;
}

impl<W: io::Write + Send + 'static> LineSink for W {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.write_all(line)
    }
}

impl LineQueue {
    /// Starts the thread. At most `capacity` lines wait for `sink`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(name: &str, capacity: usize, sink: impl LineSink) -> io::Result<Self> {
        let (sender, entries) = sync_channel(capacity);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new().name(name.to_owned()).spawn(move || write_all(&entries, sink, &lost))?;
        Ok(Self { sender, dropped })
    }

    /// Queues a line, its newline included, or drops it.
    pub(super) fn offer(&self, line: impl Into<Box<[u8]>>) {
        if self.sender.try_send(Entry::Line(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of lines lost so far: the queue was full, or writing failed.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Queues `lines` and waits until everything is written, for at most `limit`. For the end of the process.
    pub(super) fn finish(&self, lines: impl Iterator<Item = Box<[u8]>>, limit: Duration) {
        let deadline = Instant::now() + limit;
        for line in lines {
            if !self.send_until(Entry::Line(line), deadline) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (done, written) = sync_channel(1);
        if self.send_until(Entry::Flush(done), deadline) {
            let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Queues an entry if there is room before `deadline`. The standard channel cannot wait with a limit.
    fn send_until(&self, mut entry: Entry, deadline: Instant) -> bool {
        loop {
            entry = match self.sender.try_send(entry) {
                Ok(()) => return true,
                Err(TrySendError::Full(entry)) if Instant::now() < deadline => entry,
                Err(_) => return false,
            };
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_all(entries: &Receiver<Entry>, mut sink: impl LineSink, lost: &AtomicU64) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                if sink.write_line(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The caller may have given up.
            Entry::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// `tracing_subscriber` writes each entry in one call, its newline included.
impl io::Write for &LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.offer(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// Takes one line for each message on the channel.
    struct Gated(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl LineSink for Gated {
        fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.lock().unwrap().extend_from_slice(line);
            Ok(())
        }
    }

    fn gated(capacity: usize) -> (LineQueue, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (gate, opened) = mpsc::channel();
        let written = Arc::default();
        let queue = LineQueue::start("test", capacity, Gated(opened, Arc::clone(&written))).unwrap();
        (queue, gate, written)
    }

    #[test]
    fn a_blocked_sink_does_not_block_callers() {
        let (queue, gate, written) = gated(2);
        for number in 0..100 {
            queue.offer(format!("{number}\n").into_bytes());
        }
        // The thread may already have taken one out of the queue.
        assert!((97..=98).contains(&queue.dropped()), "{}", queue.dropped());
        let kept = 100 - queue.dropped();
        queue.finish(std::iter::empty(), Duration::from_millis(20));
        (0..kept).for_each(|_| gate.send(()).unwrap());
        queue.finish(std::iter::empty(), Duration::from_secs(60));
        assert!(written.lock().unwrap().starts_with(b"0\n1\n"));
    }

    #[test]
    fn finish_waits_for_queued_lines_and_lost_lines_are_counted() {
        let (queue, gate, written) = gated(1);
        (0..3).for_each(|_| gate.send(()).unwrap());
        let lines = ["a\n", "b\n", "c\n"].map(|line| line.as_bytes().into());
        queue.finish(lines.into_iter(), Duration::from_secs(60));
        assert_eq!((&**written.lock().unwrap(), queue.dropped()), (&b"a\nb\nc\n"[..], 0));
        drop(gate); // From now on each line is an error.
        queue.offer(&b"d\n"[..]);
        queue.finish(std::iter::empty(), Duration::from_secs(60));
        assert_eq!(queue.dropped(), 1);
    }
}
