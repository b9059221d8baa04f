//! Determines whether the process is ready for traffic.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::proxy::Gateway;
use crate::upstream::ServerStatus;

/// Checks on every call what is missing for readiness.
pub struct Readiness {
    gateway: Gateway,
    stopping: AtomicBool,
}

/// The result of a readiness check.
pub struct Report {
    /// Why the process is not ready, in words; empty if it is ready.
    pub missing: Vec<String>,
    /// Failures that affect some shapes only and do not make the process unready.
    pub degraded: Vec<String>,
    /// The status of every Electric server.
    pub servers: Vec<ServerStatus>,
}

impl Readiness {
    /// Checks the current issuers and upstreams of `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, stopping: AtomicBool::new(false) }
    }

    /// Reports the process as not ready from now on, so that load balancers stop sending traffic.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns why the process is not ready, in words; empty if it is ready.
    pub async fn missing(&self) -> Vec<String> {
        self.report().await.missing
    }

    /// Checks every issuer and every Electric server.
    ///
    /// Inactive Electric servers make the process unready only if no server of any upstream is active. One tenant's
    /// unavailable database is no reason to reject the other tenants, and another node would have the same problem.
    pub async fn report(&self) -> Report {
        let rules = self.gateway.rules();
        let keyless = rules.verifier.key_status().into_iter().filter(|status| !status.ready);
        let mut missing: Vec<_> = keyless.map(|status| format!("issuer {}: no usable keys", status.issuer)).collect();
        let revocations = rules.verifier.revocations().status();
        if revocations.is_some_and(|status| status.missing) {
            missing.push("revocation: the list was never read".to_owned());
        }
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
        if let Some(status) = revocations.filter(|status| status.failing && !status.missing) {
            let age = status.age.unwrap_or_default().as_secs();
            degraded.push(format!("revocation: the list is {age} s old, because it cannot be read"));
        }
        missing.extend(self.is_stopping().then(|| "stopping: finishing requests in flight".to_owned()));
        Report { missing, degraded, servers }
    }
}
