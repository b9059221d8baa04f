//! Writes the audit log, which records which subject has read which shape, and which was rejected and why: one line per
//! session of a subject with a shape, or with a reason.

mod file;
mod sessions;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use self::file::AuditFile;
use self::sessions::Sessions;
use super::Record;
use super::lines::LineQueue;
use super::logging;
use super::settings::{AuditSettings, AuditTarget};
use crate::auth::Principal;
use crate::clock::UnixTime;
use crate::rejection::Reason;
use crate::rewrite::UpstreamRequest;

/// The open sessions, and the queue for their lines. Only [`Audit::finish`] waits for the disk.
#[derive(Debug)]
pub struct Audit {
    sessions: Mutex<Sessions>,
    lines: LineQueue,
}

/// A subject that is about to read a shape, or was rejected. Created before the response, recorded after it.
#[derive(Debug)]
pub struct Reading {
    principal: Option<Arc<Principal>>,
    rule: Option<Box<str>>,
    matter: Matter,
}

/// What a session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Matter {
    /// The digest of a shape's definition.
    Shape([u8; 32]),
    /// The reason of rejections.
    Denied(Reason),
}

impl Reading {
    /// Returns the record of a rejected request. A token that is not valid names nobody.
    pub fn denied(record: &Record, reason: Reason) -> Self {
        let rule = record.rule.as_ref().map(|rule| rule.as_str().into());
        Self { principal: record.principal.clone(), rule, matter: Matter::Denied(reason) }
    }
}

/// The maximum number of lines that wait for the file.
const CAPACITY: usize = 16 * 1024;

/// Sessions checked under one lock, which takes about ten microseconds.
const BATCH: usize = 64;

impl Audit {
    /// Starts the log that the `[audit]` section asks for.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread cannot be started.
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

    /// Returns the record of `principal` (`None` for a public shape) reading the shape of `upstream`.
    pub fn reading(&self, principal: Option<&Arc<Principal>>, upstream: &UpstreamRequest) -> Reading {
        let rule = Some(upstream.rule().as_str().into());
        Reading { principal: principal.cloned(), rule, matter: Matter::Shape(upstream.shape_digest()) }
    }

    /// Records a response with `bytes` of body.
    pub fn record(&self, reading: Reading, bytes: usize, now: UnixTime) {
        let displaced = self.sessions().record(reading, bytes as u64, now);
        self.offer(displaced);
    }

    /// Writes the sessions that were idle for `audit.idle`. Call it every few seconds.
    pub fn sweep(&self, now: UnixTime) {
        loop {
            let (ended, looked_at) = self.sessions().sweep(now, BATCH);
            self.offer(ended);
            if looked_at < BATCH {
                return;
            }
        }
    }

    /// Writes every session, and waits at most `limit` until they are written.
    pub fn finish(&self, limit: Duration) {
        let ended = self.sessions().drain();
        self.lines.finish(ended.into_iter().map(|session| session.line()), limit);
    }

    /// Returns the number of open sessions.
    pub fn open_sessions(&self) -> usize {
        self.sessions().len()
    }

    /// Returns the number of lines lost because the disk was full or too slow. If the target is standard error, lost
    /// log lines count too.
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
