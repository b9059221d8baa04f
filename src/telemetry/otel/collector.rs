//! Sends spans to the collector as OTLP over HTTP, with the crates of the OpenTelemetry project.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::telemetry::{OtelProtocol, OtelSettings};

/// The timeout of a request to the collector.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends batches of spans to the collector and counts them.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: Arc<SpanExporter>,
    /// The runtime of the HTTP client: the SDK's thread has none.
    runtime: Handle,
    /// The places of spans, released when they are sent or lost.
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    /// Whether the last batch was lost. Only the first of several lost batches is logged.
    failing: AtomicBool,
}

impl Collector {
    /// Creates a client of the collector in `config`, which runs on the current runtime.
    pub(super) fn new(config: &OtelSettings, room: Arc<Semaphore>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let exporter = Arc::new(exporter(config).context("otel.endpoint")?);
        Ok(Self { exporter, runtime: Handle::try_current()?, room, metrics, failing: AtomicBool::new(false) })
    }

    fn sent(&self, count: usize) {
        self.metrics.spans_sent(count);
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("spans are sent again");
        }
    }

    fn lost(&self, count: usize, cause: &dyn std::error::Error) {
        self.metrics.spans_dropped(count);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%cause, "spans are lost");
        }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (count, exporter) = (batch.len(), Arc::clone(&self.exporter));
        let export = self.runtime.spawn(async move { exporter.export(batch).await });
        match export.await {
            Ok(Ok(())) => self.sent(count),
            Ok(Err(error)) => self.lost(count, &error),
            Err(error) => self.lost(count, &error),
        }
        self.room.add_permits(count);
        Ok(())
    }
}

fn exporter(config: &OtelSettings) -> anyhow::Result<SpanExporter> {
    let client = reqwest::Client::builder();
    let client = client.no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT).build()?;
    let endpoint = format!("{}/v1/traces", config.endpoint.as_str().trim_end_matches('/'));
    let protocol = match config.protocol {
        OtelProtocol::HttpProtobuf => Protocol::HttpBinary,
        OtelProtocol::HttpJson => Protocol::HttpJson,
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint);
    let mut exporter = exporter.with_protocol(protocol).with_timeout(TIMEOUT).build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(config.service.clone()).with_attribute(version);
    exporter.set_resource(&resource.build());
    Ok(exporter)
}
