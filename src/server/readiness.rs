//! Whether traffic may come.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::proxy::Gateway;
use crate::upstream::ServerStatus;

/// Asks, each time, what is missing.
pub struct Readiness {
    gateway: Gateway,
    stopping: AtomicBool,
}

/// What there is, and what is not.
pub struct Report {
    /// What keeps traffic away, in words; empty where nothing does.
    pub missing: Vec<String>,
    /// What is missing to some, and keeps no traffic away.
    pub degraded: Vec<String>,
    /// Every server of Electric.
    pub servers: Vec<ServerStatus>,
}

impl Readiness {
    /// Of the issuers and the Electrics of now.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, stopping: AtomicBool::new(false) }
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
        self.report().await.missing
    }

    /// What is missing now. A server of Electric that is not active keeps traffic away where no other is, of any
    /// upstream: a tenant's dead database is no reason to turn the others away, and the next node has no better one.
    pub async fn report(&self) -> Report {
        let rules = self.gateway.rules();
        let keyless = rules.verifier.key_status().into_iter().filter(|status| !status.ready);
        let mut missing: Vec<_> = keyless.map(|status| format!("issuer {}: no usable keys", status.issuer)).collect();
        let servers = rules.upstreams.status().await;
        let alone = servers.len() == 1;
        let inactive = servers.iter().filter(|server| !server.active);
        let words = inactive.map(|server| match alone {
            true => format!("Electric: {}", server.trouble),
            false => format!("{}: {}", server.subject(), server.trouble),
        });
        let mut degraded: Vec<_> = words.collect();
        if !servers.iter().any(|server| server.active) {
            missing.append(&mut degraded);
        }
        missing.extend(self.is_stopping().then(|| "stopping: requests in flight finish".to_owned()));
        Report { missing, degraded, servers }
    }
}
