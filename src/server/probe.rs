//! The process as it is seen from outside: its own admin port, asked over TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Asks an admin port of this process.
#[derive(Clone)]
pub(super) struct Probe {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Probe {
    /// Of the admin port at `address`; one that listens everywhere is asked over loopback.
    pub(super) fn new(mut address: SocketAddr) -> reqwest::Result<Self> {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        // Each question is a new connection: it goes through the accept loop, and none is left idle.
        let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { client, address })
    }

    /// Whether `/readyz` says 200.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) async fn readiness(&self) -> Result<(), String> {
        let answer = self.get("/readyz").await.map_err(|error| format!("the admin port: {error}"))?;
        if answer.status() == 200 {
            return Ok(());
        }
        let body = answer.bytes().await.unwrap_or_default();
        let body = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        let missing = body["missing"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        Err(missing.collect::<Vec<_>>().join("; "))
    }

    /// Whether `/healthz` says 200.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn health(&self) -> Result<(), String> {
        let answer = self.get("/healthz").await.map_err(|error| error.to_string())?;
        if answer.status() == 200 { Ok(()) } else { Err(format!("/healthz says {}", answer.status())) }
    }

    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.client.get(format!("http://{}{path}", self.address)).send().await
    }
}

/// Longer than Electric's health may take.
const LIMIT: Duration = Duration::from_secs(5);
