//! Determines whether requests can be served: every issuer has keys, and an Electric server is active.

use super::gateway::Gateway;
use crate::upstream::ServerStatus;

/// The result of a readiness check.
pub struct Report {
    /// Why the process is not ready, in words; empty if it is ready.
    pub missing: Vec<String>,
    /// Failures that affect some shapes only and do not make the process unready.
    pub degraded: Vec<String>,
    /// The status of every Electric server.
    pub servers: Vec<ServerStatus>,
}

impl Gateway {
    /// Reports the state of the current issuers and upstreams, which are watched in the background. Waits only for the
    /// first check of an upstream.
    ///
    /// Inactive Electric servers make the process unready only if no server of any upstream is active. One tenant's
    /// unavailable database is no reason to reject the other tenants, and another node would have the same problem.
    pub async fn report(&self) -> Report {
        let rules = self.rules();
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
        missing.extend(self.changes.borrow().stopping.then(|| "stopping: finishing requests in flight".to_owned()));
        if let Some(status) = revocations.filter(|status| status.failing && !status.missing) {
            let age = status.age.unwrap_or_default().as_secs();
            degraded.push(format!("revocation: the list is {age} s old, because it cannot be read"));
        }
        Report { missing, degraded, servers }
    }
}
