//! The audit log: who has read which shape, one line for each session of a subject with a shape.

mod file;
mod sessions;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use self::file::AuditFile;
use self::sessions::Sessions;
use super::lines::LineQueue;
use super::logging;
use super::settings::{AuditSettings, AuditTarget};
use crate::auth::Principal;
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::rewrite::UpstreamRequest;

/// Sessions going on, and where their lines go when they end. No call but [`Audit::finish`] waits for a disk.
#[derive(Debug)]
pub struct Audit {
    sessions: Mutex<Sessions>,
    lines: LineQueue,
}

/// Who is about to read what: taken before the answer, recorded after it.
#[derive(Debug)]
pub struct Reading {
    principal: Option<Arc<Principal>>,
    rule: Box<str>,
    shape: [u8; 32],
}

/// Lines that wait for the file.
const CAPACITY: usize = 16 * 1024;

/// Sessions looked at in one hold of the lock: some ten microseconds.
const BATCH: usize = 64;

impl Audit {
    /// As the `[audit]` section says.
    ///
    /// # Errors
    /// A file that cannot be opened, or a thread that cannot be started.
    pub fn start(settings: &AuditSettings) -> anyhow::Result<Self> {
        let lines = match &settings.target {
            AuditTarget::File(path) => Self::file(path).with_context(|| format!("audit.path: {}", path.display()))?,
            AuditTarget::Stderr => logging::queue().context("audit.stderr: logging was not started")?,
        };
        Ok(Self { sessions: Mutex::new(Sessions::new(settings.sessions, settings.idle)), lines })
    }

    fn file(path: &Path) -> std::io::Result<LineQueue> {
        LineQueue::start("audit", CAPACITY, AuditFile::open(path)?)
    }

    /// `principal` (`None` for a public shape) is about to be answered from `upstream`'s shape.
    pub fn reading(&self, principal: Option<&Arc<Principal>>, upstream: &UpstreamRequest) -> Reading {
        let shape = sha256(&*upstream.shape());
        Reading { principal: principal.cloned(), rule: upstream.rule().as_str().into(), shape }
    }

    /// An answer with `bytes` of body was given.
    pub fn record(&self, reading: Reading, bytes: usize, now: UnixTime) {
        let displaced = self.sessions().record(reading, bytes as u64, now);
        self.offer(displaced);
    }

    /// Writes the sessions that were idle for as long as the configuration says; to be called every few seconds.
    pub fn sweep(&self, now: UnixTime) {
        loop {
            let (ended, looked_at) = self.sessions().sweep(now, BATCH);
            self.offer(ended);
            if looked_at < BATCH {
                return;
            }
        }
    }

    /// Writes every session, and waits until that is done or `limit` has passed.
    pub fn finish(&self, limit: Duration) {
        let ended = self.sessions().drain();
        self.lines.finish(ended.into_iter().map(|session| session.line()), limit);
    }

    /// Sessions going on.
    pub fn open_sessions(&self) -> usize {
        self.sessions().len()
    }

    /// Lines lost: the disk was full or too slow; of standard error, the log's among them.
    pub fn dropped(&self) -> u64 {
        self.lines.dropped()
    }

    fn offer(&self, ended: impl IntoIterator<Item = sessions::Session>) {
        for session in ended {
            self.lines.offer(session.line());
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
