//! Where Electric is on the network: its host name, looked up off the request path where that can be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config::Upstream;
use crate::fault::Fault;

/// The addresses of one host, remembered.
#[derive(Debug)]
pub(super) struct Addresses {
    host: String,
    port: u16,
    known: ArcSwapOption<Known>,
    /// Held by the one request that looks up; the others take what is known.
    looking_up: Mutex<()>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// `None` for an address that needs no look-up.
    looked_up: Option<Instant>,
}

/// How long a look-up holds; what it gave is kept longer where the next one fails.
const FRESH: Duration = Duration::from_secs(30);

/// A name server that takes longer is down.
const LOOK_UP: Duration = Duration::from_secs(5);

impl Addresses {
    pub(super) fn of(upstream: &Upstream) -> Self {
        let literal = upstream.host.parse::<IpAddr>().ok();
        let known = literal.map(|ip| {
            Arc::new(Known {
                addresses: vec![SocketAddr::new(ip, upstream.port)],
                looked_up: None,
            })
        });
        Self {
            host: upstream.host.clone(),
            port: upstream.port,
            known: ArcSwapOption::new(known),
            looking_up: Mutex::default(),
        }
    }

    /// The address for one attempt: a host with several is tried at the next one.
    ///
    /// # Errors
    /// Where the name cannot be looked up and never could.
    pub(super) async fn attempt(&self, number: usize) -> Result<SocketAddr, Fault> {
        let known = self.known().await.ok_or(Fault::UpstreamUnreachable)?;
        known
            .addresses
            .get(number % known.addresses.len().max(1))
            .copied()
            .ok_or(Fault::UpstreamUnreachable)
    }

    /// Whether there is another address after that many attempts.
    pub(super) fn has_another(&self, attempts: usize) -> bool {
        self.known
            .load()
            .as_ref()
            .is_some_and(|known| attempts < known.addresses.len())
    }

    async fn known(&self) -> Option<Arc<Known>> {
        let known = self.known.load_full();
        if known.as_ref().is_some_and(|known| known.is_fresh()) {
            return known;
        }
        let looking_up = match known {
            Some(stale) => match self.looking_up.try_lock() {
                Ok(looking_up) => looking_up,
                Err(_) => return Some(stale),
            },
            None => self.looking_up.lock().await,
        };
        if !self.known.load().as_ref().is_some_and(|known| known.is_fresh()) {
            self.look_up().await;
        }
        drop(looking_up);
        self.known.load_full()
    }

    async fn look_up(&self) {
        let found = timeout(LOOK_UP, lookup_host((self.host.as_str(), self.port))).await;
        let addresses: Vec<_> = found.into_iter().flatten().flatten().collect();
        if !addresses.is_empty() {
            self.known.store(Some(Arc::new(Known {
                addresses,
                looked_up: Some(Instant::now()),
            })));
        }
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.looked_up.is_none_or(|at| at.elapsed() < FRESH)
    }
}
