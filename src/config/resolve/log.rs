//! `[log]`.

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
    // A word alone that is no level is a target to `EnvFilter`: "inof" would log nothing of ours.
    let level_or_rule = |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    if text.contains("pingora") {
        value.error(
            "names pingora, whose own entries below warn show requests with the upstream's secret: leave it out",
        );
        return None;
    }
    if !text.split(',').all(level_or_rule) || EnvFilter::try_new(text).is_err() {
        value.error(r#"no filter: write "error", "warn", "info", "debug" or "trace", or as in "shapegate=debug,warn""#);
        return None;
    }
    Some(text)
}
