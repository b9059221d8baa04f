//! The configured services, each with its cache.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Failure, OUTCOMES, Verdict};
use super::cache::AnswerCache;
use super::client::Client;
use super::question::Question;
use super::settings::ServiceSettings;
use crate::auth::FetchError;
use crate::metrics::Metrics;

/// How long an answer that denies is cached: a client to whom access was just given should not have to wait long.
const DENIED: Duration = Duration::from_secs(5);

/// How long a failure is cached, so that a service that is down is not asked by each client.
const FAILED: Duration = Duration::from_secs(1);

/// Every configured service, by name.
#[derive(Debug, Default)]
pub struct Services(BTreeMap<String, Arc<Service>>);

impl Services {
    /// Creates the services. Nothing is sent yet.
    ///
    /// # Errors
    /// A client certificate or the system's trust store cannot be used.
    pub fn new(settings: BTreeMap<String, ServiceSettings>, metrics: &Arc<Metrics>) -> Result<Self, FetchError> {
        Self::default().renewed(settings, metrics)
    }

    /// Returns the services of a new configuration. A service whose settings are equal keeps its cached answers.
    ///
    /// # Errors
    /// A client certificate or the system's trust store cannot be used.
    pub fn renewed(
        &self,
        settings: BTreeMap<String, ServiceSettings>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, FetchError> {
        let services = settings.into_iter().map(|(name, settings)| {
            let service = match self.0.get(&name).filter(|known| *known.client.settings() == settings) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Service::new(&name, settings, Arc::clone(metrics))?),
            };
            Ok((name, service))
        });
        services.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the service with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.0.get(name)
    }
}

/// A service, with its cached answers.
#[derive(Debug)]
pub struct Service {
    name: Arc<str>,
    client: Client,
    answers: AnswerCache,
    metrics: Arc<Metrics>,
    /// Whether the last request failed; used to log only changes.
    failing: AtomicBool,
}

/// How a service has answered one question, for observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consulted {
    /// The service's name.
    pub service: Arc<str>,
    /// The name of the verdict or of the failure.
    pub outcome: &'static str,
    /// Whether it allows the request.
    pub allows: bool,
    /// How long the service took when it was asked.
    pub took: Duration,
    /// Whether the answer was cached.
    pub cached: bool,
}

impl Consulted {
    /// How long the request waited for the service, in milliseconds; `None` if the answer was cached.
    pub fn asked_ms(&self) -> Option<u64> {
        (!self.cached).then(|| u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Service {
    fn new(name: &str, settings: ServiceSettings, metrics: Arc<Metrics>) -> Result<Self, FetchError> {
        metrics.service_loaded(name, OUTCOMES);
        let answers = AnswerCache::new(settings.cache_bytes);
        Ok(Self { name: name.into(), client: Client::new(settings)?, answers, metrics, failing: AtomicBool::default() })
    }

    /// Returns the cached answer to a question.
    pub fn find(&self, question: &Question) -> Option<Arc<Answer>> {
        self.answers.find(question)
    }

    /// Returns the answer to a question. Sends it unless the answer is cached or on its way.
    pub async fn ask(&self, question: &Question) -> Arc<Answer> {
        self.answers.find_or_ask(question, self.send(question)).await
    }

    /// Describes an answer of this service.
    pub fn consulted(&self, answer: &Answer, cached: bool) -> Consulted {
        let (outcome, allows) = (answer.as_str(), answer.allows());
        Consulted { service: Arc::clone(&self.name), outcome, allows, took: answer.took, cached }
    }

    async fn send(&self, question: &Question) -> (Answer, usize) {
        let started = Instant::now();
        let read = self.client.ask(question).await;
        let took = started.elapsed();
        let (verdict, bytes) = match read {
            Ok((verdict, bytes)) => (Ok(verdict), bytes),
            Err(failure) => (Err(failure), 0),
        };
        self.log(verdict.as_ref().err());
        let answer = Answer { until: Instant::now() + self.valid_for(&verdict), verdict, took };
        self.metrics.decided(&self.name, answer.as_str(), took);
        (answer, bytes)
    }

    /// Returns how long an answer is cached. A random part of the time is left out, so that the answers that many
    /// clients wait with do not expire together.
    fn valid_for(&self, verdict: &Result<Verdict, Failure>) -> Duration {
        let cache = self.client.settings().cache;
        match verdict {
            Err(_) => FAILED,
            Ok(verdict) if verdict.denies() => cache.min(DENIED),
            Ok(_) => cache.mul_f64(rand::random_range(0.75..=1.0)),
        }
    }

    /// Logs when the service begins to fail and when it answers again.
    fn log(&self, failure: Option<&Failure>) {
        let failed_before = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !failed_before => {
                tracing::warn!(service = %self.name, %failure, "a decision service fails; its clients get 503");
            }
            None if failed_before => tracing::info!(service = %self.name, "a decision service answers again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
