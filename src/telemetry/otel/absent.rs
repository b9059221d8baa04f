//! Replaces the tracer in builds without the feature `otel`, in which no tracer can exist.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::metrics::Metrics;
use crate::policy::RuleId;
use crate::telemetry::OtelSettings;
use crate::telemetry::Record;
use crate::trace_context::TraceParent;

/// Cannot be created in this build.
#[derive(Debug)]
pub enum Tracer {}

/// Cannot be created in this build.
pub(crate) enum UpstreamSpan {}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in `tracer`")]
impl Tracer {
    pub fn new(_: &OtelSettings, _: Arc<Metrics>) -> anyhow::Result<Arc<Self>> {
        anyhow::bail!("otel: this build has no OpenTelemetry support: build with `--features otel`")
    }

    pub fn begin(&self, _: Option<TraceParent>) -> (Option<TraceParent>, Option<u64>) {
        match *self {}
    }

    pub fn answered(&self, _: &Record, _: &Method, _: Version, _: u16, _: usize) {
        match *self {}
    }

    pub(crate) fn upstream(&self, _: &mut Option<TraceParent>, _: &RuleId, _: bool) -> Option<Box<UpstreamSpan>> {
        match *self {}
    }

    pub async fn finish(&self, _: Duration) {
        match *self {}
    }
}

impl UpstreamSpan {
    pub(crate) fn answered(&mut self, _: StatusCode) {
        match *self {}
    }

    pub(crate) fn failed(&mut self, _: &'static str) {
        match *self {}
    }
}
