//! Sends the requests of flights to Electric. Each runs through the gateway's phases as a request without a client.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_proxy::Subrequest;
use pingora_proxy::subrequest::Ctx;

use super::exchange::{Ending, Exchange};
use super::flight_session::FlightSession;
use super::gateway::Proxy;
use crate::fault::Fault;
use crate::flight::{Ask, Sink, Source};
use crate::metrics::Metrics;
use crate::rewrite::UpstreamRequest;
use crate::telemetry::Tracer;
use crate::upstream::Upstreams;

/// The configured Electrics. Requests to them run through the proxy.
pub struct Electric {
    /// Weak, because the proxy owns the rules, and they own this.
    proxy: Weak<Proxy>,
    upstreams: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    tracer: Option<Arc<Tracer>>,
}

impl Electric {
    /// Returns a source that sends requests to `upstreams` through `proxy`. `tracer` records those of sampled traces.
    pub fn new(
        proxy: Weak<Proxy>,
        upstreams: Arc<Upstreams>,
        metrics: Arc<Metrics>,
        tracer: Option<Arc<Tracer>>,
    ) -> Self {
        Self { proxy, upstreams, metrics, tracer }
    }

    /// Checks whether Electric accepts a request, without a flight. `check --probe` uses this.
    ///
    /// # Errors
    /// The reason why not: Electric's own error if there is one, with our secrets redacted.
    pub async fn probe(&self, request: UpstreamRequest) -> Result<(), String> {
        let ask = Ask { request, request_id: "check".into(), trace: None, known: None };
        match self.exchange(ask, None).await {
            Ok(Ending::Answered) => Ok(()),
            Ok(Ending::Refused(status, words)) => {
                Err(format!("Electric answers {}: {}", status.as_u16(), words.trim()))
            }
            Ok(Ending::Failed(fault)) | Err(fault) => Err(fault.to_string()),
        }
    }

    async fn exchange(&self, mut ask: Ask, sink: Option<Sink>) -> Result<Ending, Fault> {
        let proxy = self.proxy.upgrade().ok_or(Fault::Internal)?;
        // The rule that names the upstream comes from the same configuration.
        let pool = self.upstreams.find(ask.request.upstream()).ok_or(Fault::Internal)?;
        let server = pool.server(ask.request.definition())?;
        let (rule, live) = (ask.request.rule().clone(), ask.request.is_live());
        let span = self.tracer.as_ref().and_then(|tracer| tracer.upstream(&mut ask.trace, &rule, live));
        let body = ask.request.body().map(|body| Bytes::copy_from_slice(body.as_bytes()));
        let session = FlightSession::session(body, sink.clone()).map_err(|_| Fault::Internal)?;
        let asked = (Arc::clone(pool), Arc::clone(server));
        let exchange = Exchange::new(ask, asked, sink, Arc::clone(&self.metrics), span);
        let ending = exchange.ending();
        let context = Ctx::builder().user_ctx(Box::new(Some(Box::new(exchange)))).build();
        proxy.process_subrequest(Box::new(session), Box::new(context)).await;
        Arc::into_inner(ending).and_then(std::sync::OnceLock::into_inner).ok_or(Fault::Internal)
    }
}

#[async_trait]
impl Source for Electric {
    async fn fetch(&self, ask: Ask, sink: &Sink) -> Result<(), Fault> {
        match self.exchange(ask, Some(sink.clone())).await? {
            Ending::Answered => Ok(()),
            Ending::Failed(fault) => Err(fault),
            Ending::Refused(status, _) => Err(Fault::UpstreamRefused(status.as_u16())),
        }
    }

    fn identity(&self, request: &UpstreamRequest) -> Arc<str> {
        self.upstreams.find(request.upstream()).map_or_else(Arc::default, |pool| Arc::clone(pool.identity()))
    }
}
