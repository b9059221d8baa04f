//! Resolves `[log]`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::Environment;
use crate::config::raw::Section;
use crate::telemetry::{LogFormat, LogSettings};

pub(super) fn log(mut section: Section<'_>, environment: &Environment) -> LogSettings {
    let format = section.choice("format", LogFormat::Text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = section.value("level");
    let access = section.boolean("access", true);
    let level = level.and_then(|value| {
        let text = value.text()?;
        check(text).map_err(|problem| value.error(problem)).is_ok().then(|| text.to_owned())
    });
    let overriding = environment.variable("RUST_LOG").filter(|text| !text.is_empty());
    if let Some(Err(problem)) = overriding.as_deref().map(check) {
        section.error("level", format!("RUST_LOG, which overrides it: {problem}"));
    }
    let level = overriding.or(level).unwrap_or_else(|| "info".to_owned());
    LogSettings { format, level, access }
}

/// Checks a filter, and returns what is wrong with it.
fn check(text: &str) -> Result<(), &'static str> {
    // `EnvFilter` takes a single unknown word as a target: "inof" would silence our log.
    let level_or_rule = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    if text.contains("pingora") {
        return Err("names pingora, whose log lines below warn show requests with the upstream secret: remove it");
    }
    if !text.split(',').all(level_or_rule) || EnvFilter::try_new(text).is_err() {
        return Err(
            r#"not a log filter: write "error", "warn", "info", "debug" or "trace", or as in "shapegate=debug,warn""#,
        );
    }
    Ok(())
}
