//! Checks this process from outside: sends requests to its own admin port over TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A client of this process's admin port.
#[derive(Clone)]
pub(super) struct Probe {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Probe {
    /// Creates a probe of the admin port at `address`. An unspecified address is reached over loopback.
    pub(super) fn new(mut address: SocketAddr) -> reqwest::Result<Self> {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        // Each request opens a new connection: it tests the accept loop, and leaves no idle connection.
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { client, address })
    }

    /// Checks whether `/readyz` returns 200.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) async fn readiness(&self) -> Result<(), String> {
        let answer = self.get("/readyz").await.map_err(|error| format!("cannot reach the admin port: {error}"))?;
        if answer.status() == 200 {
            return Ok(());
        }
        let body = answer.bytes().await.unwrap_or_default();
        let body = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        let missing = body["missing"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        Err(missing.collect::<Vec<_>>().join("; "))
    }

    /// Checks whether `/healthz` returns 200.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) async fn health(&self) -> Result<(), String> {
        let answer = self.get("/healthz").await.map_err(|error| error.to_string())?;
        if answer.status() == 200 { Ok(()) } else { Err(format!("/healthz returns {}", answer.status())) }
    }

    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.client.get(format!("http://{}{path}", self.address)).send().await
    }
}

/// The timeout of a request; longer than the health check of Electric that it waits for.
const LIMIT: Duration = Duration::from_secs(5);
