//! Resolves Electric's host name, off the request path if possible.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::settings::ServerUrl;
use crate::fault::Fault;

/// The cached addresses of one host.
#[derive(Debug)]
pub(super) struct Addresses {
    host: String,
    port: u16,
    known: ArcSwapOption<Known>,
    /// Held by the one request that does a lookup; the others use the known addresses.
    looking_up: Mutex<()>,
    /// The place of the address that accepted the last connection.
    good: AtomicUsize,
}

#[derive(Debug)]
struct Known {
    /// Empty if the name could never be resolved.
    addresses: Vec<SocketAddr>,
    /// When to look up again; `None` for an IP address, which needs no lookup.
    until: Option<Instant>,
}

/// How long a lookup is valid. Its result is kept longer if the next lookup fails.
const FRESH: Duration = Duration::from_secs(30);

/// How long a failed lookup is valid, so that waiting requests do not all repeat it.
const FAILED: Duration = Duration::from_secs(1);

/// The timeout of a lookup.
const LOOK_UP: Duration = Duration::from_secs(5);

impl Addresses {
    pub(super) fn of(url: &ServerUrl) -> Self {
        let literal = url.host.parse::<IpAddr>().ok();
        let addresses = |ip| vec![SocketAddr::new(ip, url.port)];
        let known = literal.map(|ip| Arc::new(Known { addresses: addresses(ip), until: None }));
        Self {
            host: url.host.clone(),
            port: url.port,
            known: ArcSwapOption::new(known),
            looking_up: Mutex::default(),
            good: AtomicUsize::new(0),
        }
    }

    /// Returns the address for a new connection: the one that accepted the last.
    ///
    /// # Errors
    /// If the name cannot be resolved and never could.
    pub(super) async fn choose(&self) -> Result<SocketAddr, Fault> {
        let addresses = &self.known().await.ok_or(Fault::UpstreamUnreachable)?.addresses;
        let place = self.good.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.get(place).copied().ok_or(Fault::UpstreamUnreachable)
    }

    /// Records that `failed` refuses connections. Returns whether there is another address after `attempts` failures.
    pub(super) fn move_on(&self, failed: Option<SocketAddr>, attempts: usize) -> bool {
        let known = self.known.load();
        let Some(known) = known.as_ref() else { return false };
        let good = self.good.load(Ordering::Relaxed);
        let current = known.addresses.get(good % known.addresses.len().max(1)).copied();
        if current == failed {
            // If another request moved on at the same time, moving once is enough.
            let _ = self.good.compare_exchange(good, good.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        }
        attempts < known.addresses.len()
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
        let found: Vec<_> = found.into_iter().flatten().flatten().collect();
        let now = Instant::now();
        let known = if found.is_empty() {
            let before = self.known.load().as_ref().map(|known| known.addresses.clone());
            Known { addresses: before.unwrap_or_default(), until: Some(now + FAILED) }
        } else {
            Known { addresses: found, until: Some(now + FRESH) }
        };
        self.known.store(Some(Arc::new(known)));
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}
