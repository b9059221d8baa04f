//! Sends log entries to standard error, as JSON or as text, through a queue that no request waits for.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::journal::{self, Journal};
use super::lines::LineQueue;
use super::settings::{LogFormat, LogSettings};

/// Limits Pingora to warnings, and silences modules whose lines quote requests with their tokens
/// (docs/security.md, C7).
const PINGORA: &str = "pingora_core=warn,pingora_core::apps::http_app=off,pingora_core::connectors=off,\
    pingora_proxy=off";

/// Entries that wait for standard error; about 8 MB if all of them are access lines.
const CAPACITY: usize = 32 * 1024;

/// The queue for standard error. The process has one, and `tracing` has one subscriber.
static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Replaces the filter of the subscriber.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging; a second call in one process changes nothing.
///
/// # Errors
/// If `log.level` is not a valid filter, or the writing thread cannot be started.
pub fn init(log: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(log)?;
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let queue = LineQueue::start("log", CAPACITY, io::stderr()).context("cannot start the log's thread")?;
    let queue = QUEUE.get_or_init(|| queue).clone();
    let lines = fmt::layer().with_ansi(io::stderr().is_terminal() && !no_color());
    let lines = match (log.format, journal::is_stderr()) {
        (LogFormat::Json, false) => as_json(lines).with_writer(queue).boxed(),
        (LogFormat::Json, true) => as_json(lines).without_time().with_writer(Journal(queue)).boxed(),
        (LogFormat::Text, false) => lines.with_writer(queue).boxed(),
        (LogFormat::Text, true) => lines.without_time().with_writer(Journal(queue)).boxed(),
    };
    let (filter, replace) = reload::Layer::new(filter);
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        FILTER.get_or_init(|| replace);
    } else {
        tracing::debug!("logging was already started");
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// One object for each entry, with the fields at its top.
fn as_json<S>(lines: fmt::Layer<S>) -> fmt::Layer<S, JsonFields, Format<Json>> {
    lines.json().flatten_event(true).with_current_span(false)
}

/// Applies the level and access setting of `log`, but not its format. Does nothing before [`init`].
///
/// # Errors
/// If `log.level` is not a valid filter.
pub fn refilter(log: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(log)?;
    FILTER.get().map_or(Ok(()), |replace| replace.reload(filter)).context("log.level")
}

/// Returns whether the user wants no colors (<https://no-color.org>).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn filter(log: &LogSettings) -> anyhow::Result<EnvFilter> {
    let directives = format!("{PINGORA},{}", log.level);
    let filter = EnvFilter::try_new(directives).context("log.level")?;
    if log.access {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{}=off", super::access_log::TARGET).parse()?))
}

/// Returns the number of entries lost because standard error was blocked.
pub(crate) fn dropped() -> u64 {
    QUEUE.get().map_or(0, LineQueue::dropped)
}

/// Returns the queue, for another log that shares standard error.
pub(super) fn queue() -> Option<LineQueue> {
    QUEUE.get().cloned()
}

/// Waits until queued entries are written, for at most a second. For the end of the process.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(std::iter::empty(), Duration::from_secs(1));
    }
}

/// Logs a panic. The default hook writes to standard error itself, and its message may quote a client.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // A string literal is safe to log; a formatted message may contain anything.
    let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or("(not shown)");
    tracing::error!(location, message, "panic");
}
