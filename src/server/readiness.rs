//! Whether traffic may come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::auth::TokenVerifier;
use crate::config::Upstream;

/// Asks, each time, what is missing.
pub struct Readiness {
    verifier: Arc<TokenVerifier>,
    client: reqwest::Client,
    health: String,
    stopping: AtomicBool,
}

impl Readiness {
    /// Of these issuers and this Electric.
    ///
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(verifier: Arc<TokenVerifier>, upstream: &Upstream) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self {
            verifier,
            client,
            health: format!("{}/v1/health", upstream.origin()),
            stopping: AtomicBool::new(false),
        })
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
        let keyless = self.verifier.key_status().into_iter().filter(|status| !status.ready);
        let mut missing: Vec<_> = keyless.map(|status| format!("issuer {}: no usable keys", status.issuer)).collect();
        missing.extend(self.upstream_missing().await);
        missing.extend(self.is_stopping().then(|| "stopping: requests in flight finish".to_owned()));
        missing
    }

    /// 200 is active, 202 starting or waiting for its database (PROTOCOL 1).
    async fn upstream_missing(&self) -> Option<String> {
        match self.client.get(&self.health).send().await {
            Ok(answer) if answer.status() == 200 => None,
            Ok(answer) => Some(format!("Electric: /v1/health says {}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Some("Electric: /v1/health does not answer".to_owned()),
            Err(_) => Some("Electric: cannot be reached".to_owned()),
        }
    }
}
