//! Resolves `[otel]`.

use toml::de::DeValue;
use url::Url;

use crate::config::raw::{Section, Value};
use crate::telemetry::{OtelProtocol, OtelSettings};

const PROTOCOLS: [(&str, OtelProtocol); 2] =
    [("http/protobuf", OtelProtocol::HttpProtobuf), ("http/json", OtelProtocol::HttpJson)];

/// Resolves `[otel]`; `None` if the section is missing.
pub(super) fn otel(root: &mut Section<'_>) -> Option<OtelSettings> {
    let is_there = root.has("otel");
    let mut section = root.section("otel");
    let endpoint = section.value("endpoint");
    let protocol = section.choice("protocol", OtelProtocol::HttpProtobuf, &PROTOCOLS);
    let sample = section.value("sample").map_or(Some(1.0), |value| ratio(&value));
    let service = section.value("service").map_or(Some("shapegate"), |value| value.text());
    if !is_there {
        return None;
    }
    if !cfg!(feature = "otel") {
        section
            .error_here("this build has no OpenTelemetry support: build with `--features otel`, or remove the section");
        return None;
    }
    let Some(endpoint) = endpoint else {
        section.error_here(r#"has no collector: write `endpoint`, as in "http://127.0.0.1:4318""#);
        return None;
    };
    Some(OtelSettings { endpoint: collector(&endpoint)?, protocol, sample: sample?, service: service?.to_owned() })
}

fn ratio(value: &Value<'_>) -> Option<f64> {
    let number = match value.raw() {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    };
    let ratio = number.filter(|number| (0.0..=1.0).contains(number));
    if ratio.is_none() {
        value.error("must be a number from 0 to 1, as in 0.01: the fraction of traces to record");
    }
    ratio
}

/// Parses the collector's URL. Errors do not show it, because it may contain a password.
fn collector(value: &Value<'_>) -> Option<Url> {
    let url = Url::parse(value.text()?).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else {
        value.error(r#"not a URL: write where the collector accepts OTLP over HTTP, as in "http://127.0.0.1:4318""#);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        value.error("must not contain user, password, query or fragment: set headers in OTEL_EXPORTER_OTLP_HEADERS");
        return None;
    }
    Some(url)
}
