//! OTLP over HTTP, with the crates of the OpenTelemetry project.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use super::{Kind, Span, Value};
use crate::telemetry::{OtelProtocol, OtelSettings};

/// A collector that takes longer is away.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The collector.
pub(super) struct Otlp {
    exporter: SpanExporter,
    scope: InstrumentationScope,
}

impl Otlp {
    pub(super) fn new(config: &OtelSettings) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .context("otel.endpoint")?;
        let endpoint = format!("{}/v1/traces", config.endpoint.as_str().trim_end_matches('/'));
        let protocol = match config.protocol {
            OtelProtocol::HttpProtobuf => Protocol::HttpBinary,
            OtelProtocol::HttpJson => Protocol::HttpJson,
        };
        let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint);
        let mut exporter = exporter.with_protocol(protocol).with_timeout(TIMEOUT).build().context("otel.endpoint")?;
        let resource = Resource::builder().with_service_name(config.service.clone());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        exporter.set_resource(&resource.with_attribute(version).build());
        Ok(Self { exporter, scope: InstrumentationScope::builder("shapegate").build() })
    }

    /// Sends a batch, again and again within the time-out where the collector asks for patience.
    pub(super) async fn send(&self, batch: Vec<Span>) -> Result<(), String> {
        let batch = batch.into_iter().map(|span| self.data(span)).collect();
        self.exporter.export(batch).await.map_err(|error| error.to_string())
    }

    fn data(&self, span: Span) -> SpanData {
        let trace = TraceId::from(span.context.trace());
        let context =
            SpanContext::new(trace, SpanId::from(span.context.span()), TraceFlags::SAMPLED, false, TraceState::NONE);
        SpanData {
            span_context: context,
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: span.kind == Kind::Server && span.parent != 0,
            span_kind: match span.kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
            },
            name: span.name.into(),
            start_time: span.started,
            end_time: span.ended,
            attributes: span.attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn attribute(name: &'static str, value: Value) -> KeyValue {
    match value {
        Value::Flag(flag) => KeyValue::new(name, flag),
        Value::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
        Value::Text(text) => KeyValue::new(name, text.into_owned()),
    }
}
