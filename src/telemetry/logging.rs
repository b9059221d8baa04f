//! Where log entries go: standard error, as JSON or as text.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Of Pingora's core, faults only; of its proxy none, since `fail_to_proxy` says more; of the admin port none, since those lines quote the request, token included (SECURITY C7).
const PINGORA: &str = "pingora_core=warn,pingora_core::apps::http_app=off,pingora_proxy=off";

/// Starts logging; a second call in one process changes nothing.
///
/// # Errors
/// Where `log.level` is not a filter.
pub fn init(log: &Log) -> anyhow::Result<()> {
    // Pingora's own lines on each connection say nothing that the access log does not say better.
    let directives = format!("{PINGORA},{}", log.level);
    let mut filter = EnvFilter::try_new(directives)?;
    if !log.access {
        filter = filter.add_directive(format!("{}=off", super::ACCESS_TARGET).parse()?);
    }
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match log.format {
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if done.is_err() {
        tracing::debug!("logging was already started");
    }
    Ok(())
}
