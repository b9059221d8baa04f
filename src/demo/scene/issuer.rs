//! The issuer's server, which can be restarted. It gives a token to anyone: this is a demo.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::error::Unspecified;
use serde_json::{Value, json};

use super::{AUDIENCE, DOWN, Limits, Reply, Request, Server, Serving, again};
use crate::clock::{Clock, SystemClock};
use crate::demo::issuer::Issuer;

/// An issuer with its key set at `/jwks`.
pub(super) struct IssuerServer {
    issuer: Issuer,
    /// Keys of before, whose tokens stay valid.
    retired: Mutex<Vec<Value>>,
    address: SocketAddr,
    /// `None` during a restart.
    serving: Mutex<Option<Serving>>,
}

impl IssuerServer {
    /// Starts it on a free port of loopback.
    pub(super) async fn start() -> io::Result<Self> {
        let server = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = server.local_addr()?;
        let issuer = Issuer::new(&format!("http://{address}"))
            .map_err(|_| io::Error::other("cannot generate a key: the system has no randomness"))?;
        let serving = Mutex::new(Some(serve(server, issuer.jwks().to_string())));
        Ok(Self { issuer, retired: Mutex::default(), address, serving })
    }

    pub(super) fn url(&self) -> &str {
        self.issuer.name()
    }

    pub(super) fn is_running(&self) -> bool {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Returns a token for this subject and organization; `None` during a restart.
    pub(super) fn token(&self, subject: &str, organization: &str) -> Option<String> {
        let now = SystemClock.now().as_secs();
        self.sign(&json!({
            "sub": subject,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + LIFETIME,
            "organizationIds": [organization],
        }))
    }

    /// Signs any claims; `None` during a restart.
    pub(super) fn sign(&self, claims: &Value) -> Option<String> {
        self.is_running().then(|| self.issuer.sign(claims))
    }

    /// Stops, and starts again after a pause, with a new key. Returns `false` if it is restarting already.
    pub(super) async fn restart(&self) -> io::Result<bool> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(serving) = serving else { return Ok(false) };
        drop(serving);
        tokio::time::sleep(DOWN).await;
        let keys =
            self.rotate().map_err(|_| io::Error::other("cannot generate a key: the system has no randomness"))?;
        let server = again(|| bind(self.address)).await?;
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(serve(server, keys));
        Ok(true)
    }

    /// Replaces the key. Returns the set of the new key and those of before.
    fn rotate(&self) -> Result<String, Unspecified> {
        let keys = |mut set: Value| set["keys"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.extend(keys(self.issuer.jwks()));
        self.issuer.rotate()?;
        let all = [keys(self.issuer.jwks()), retired.clone()].concat();
        Ok(json!({ "keys": all }).to_string())
    }
}

/// Seconds for which a token is valid.
const LIFETIME: u64 = 300;

async fn bind(address: SocketAddr) -> io::Result<Server> {
    Ok(Server::bind(address).await?.with_limits(Limits { requests: usize::MAX, ..Limits::default() }))
}

fn serve(server: Server, keys: String) -> Serving {
    server.serve(move |request: Request| {
        std::future::ready(match request.path() {
            "/jwks" => Reply::json(200, keys.clone()),
            _ => Reply::new(404).with_body("/jwks\n"),
        })
    })
}
