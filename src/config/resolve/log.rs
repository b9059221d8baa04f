//! Resolves `[log]`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::raw::{Section, Value};
use crate::telemetry::{LogFormat, LogSettings};

pub(super) fn log(mut section: Section<'_>) -> LogSettings {
    let format = section.choice("format", LogFormat::Text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let level = section.value("level");
    let access = section.boolean("access", true);
    let level = level.and_then(|value| filter(&value)).unwrap_or("info").to_owned();
    LogSettings { format, level, access }
}

fn filter<'a>(value: &Value<'a>) -> Option<&'a str> {
    let text = value.text()?;
    // `EnvFilter` takes a single unknown word as a target: "inof" would silence our log.
    let level_or_rule = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    if text.contains("pingora") {
        value.error("names pingora, whose log lines below warn show requests with the upstream secret: remove it");
        return None;
    }
    if !text.split(',').all(level_or_rule) || EnvFilter::try_new(text).is_err() {
        value.error(
            r#"not a log filter: write "error", "warn", "info", "debug" or "trace", or as in "shapegate=debug,warn""#,
        );
        return None;
    }
    Some(text)
}
