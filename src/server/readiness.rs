//! Whether traffic may come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::Upstream;
use crate::proxy::Front;

/// Asks, each time, what is missing.
pub struct Readiness {
    front: Arc<Front>,
    client: reqwest::Client,
    health: ArcSwap<String>,
    stopping: AtomicBool,
}

impl Readiness {
    /// Of these issuers and this Electric.
    ///
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(front: Arc<Front>, upstream: &Upstream) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { front, client, health: ArcSwap::from_pointee(health(upstream)), stopping: AtomicBool::new(false) })
    }

    /// From here on it is this Electric that is asked.
    pub(super) fn replace(&self, upstream: &Upstream) {
        self.health.store(Arc::new(health(upstream)));
    }

    /// From here on a balancer should send nobody.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What is missing, in words; empty where nothing is.
    pub async fn missing(&self) -> Vec<String> {
        let keyless = self.front.gate().verifier.key_status().into_iter().filter(|status| !status.ready);
        let mut missing: Vec<_> = keyless.map(|status| format!("issuer {}: no usable keys", status.issuer)).collect();
        missing.extend(self.upstream_missing().await);
        missing.extend(self.is_stopping().then(|| "stopping: requests in flight finish".to_owned()));
        missing
    }

    /// 200 is active, 202 starting or waiting for its database (PROTOCOL 1).
    async fn upstream_missing(&self) -> Option<String> {
        match self.client.get(self.health.load().as_str()).send().await {
            Ok(answer) if answer.status() == 200 => None,
            Ok(answer) => Some(format!("Electric: /v1/health says {}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Some("Electric: /v1/health does not answer".to_owned()),
            Err(_) => Some("Electric: cannot be reached".to_owned()),
        }
    }
}

fn health(upstream: &Upstream) -> String {
    format!("{}/v1/health", upstream.origin())
}
