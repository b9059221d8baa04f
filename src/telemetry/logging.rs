//! Where log entries go: standard error, as JSON or as text, by way of a queue that no request waits for.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, reload};

use super::lines::LineQueue;
use super::settings::{LogFormat, LogSettings};

/// Of Pingora, faults only; of the admin port none, since those lines quote the request, token included (SECURITY C7).
const PINGORA: &str = "pingora_core=warn,pingora_core::apps::http_app=off";

/// Entries that wait for standard error; about 8 MB where all of them are access lines.
const CAPACITY: usize = 32 * 1024;

/// The process has one standard error, and `tracing` one subscriber.
static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Replaces the filter of the subscriber, whose type depends on the format.
static FILTER: OnceLock<Box<ReplaceFilter>> = OnceLock::new();

type ReplaceFilter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// Starts logging; a second call in one process changes nothing.
///
/// # Errors
/// Where `log.level` is not a filter, or the writing thread cannot be started.
pub fn init(log: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(log)?;
    if QUEUE.get().is_some() {
        return Ok(());
    }
    let queue = LineQueue::start("log", CAPACITY, std::io::stderr()).context("the log's thread")?;
    let queue = QUEUE.get_or_init(|| queue);
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone());
    let done = match log.format {
        LogFormat::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_filter_reloading();
            let filter = subscriber.reload_handle();
            subscriber.try_init().map(|()| FILTER.set(Box::new(move |other| filter.reload(other))))
        }
        LogFormat::Text => {
            let subscriber = subscriber.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let filter = subscriber.reload_handle();
            subscriber.try_init().map(|()| FILTER.set(Box::new(move |other| filter.reload(other))))
        }
    };
    if done.is_err() {
        tracing::debug!("logging was already started");
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// From here on what is logged is what `log` says, but for its format. Changes nothing before [`init`].
///
/// # Errors
/// Where `log.level` is not a filter.
pub fn refilter(log: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(log)?;
    FILTER.get().map_or(Ok(()), |replace| replace(filter)).context("log.level")
}

fn filter(log: &LogSettings) -> anyhow::Result<EnvFilter> {
    // Pingora's own lines on each connection say nothing that the access log does not say better.
    let directives = format!("{PINGORA},{}", log.level);
    let filter = EnvFilter::try_new(directives).context("log.level")?;
    if log.access {
        return Ok(filter);
    }
    Ok(filter.add_directive(format!("{}=off", super::ACCESS_TARGET).parse()?))
}

/// Entries lost because standard error took none.
pub(super) fn dropped() -> u64 {
    QUEUE.get().map_or(0, LineQueue::dropped)
}

/// Writes a line that is no entry: of a log that shares standard error.
pub(super) fn queue() -> Option<LineQueue> {
    QUEUE.get().cloned()
}

/// Waits for what is queued, a second at most: for the end of the process.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(std::iter::empty(), Duration::from_secs(1));
    }
}

/// The default hook writes to standard error itself, and what a panic says may quote a client.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // A text of the source is safe; one that was formatted may hold anything.
    let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or("(not shown)");
    tracing::error!(location, message, "panic");
}
