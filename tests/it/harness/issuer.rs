//! An issuer that serves its key set over HTTP, counts the fetches, and can hang or be taken down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use shapegate::demo::http::{End, Reply, Server, Serving};
use shapegate::demo::issuer::Issuer;
use tokio::sync::watch;

/// A running issuer.
pub(crate) struct IssuerServer {
    pub keys: Issuer,
    state: Arc<State>,
    _serving: Serving,
}

struct State {
    up: AtomicBool,
    fetches: AtomicUsize,
    held: watch::Sender<bool>,
}

impl IssuerServer {
    pub(crate) async fn start() -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let keys = Issuer::new(&format!("http://{}", server.local_addr().unwrap())).unwrap();
        let state = Arc::new(State {
            up: AtomicBool::new(true),
            fetches: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        let (served, shared) = (keys.clone(), Arc::clone(&state));
        let serving = server.serve(move |_| {
            shared.fetches.fetch_add(1, Ordering::SeqCst);
            let reply = if shared.up.load(Ordering::SeqCst) {
                Reply::json(200, served.jwks().to_string())
            } else {
                Reply::new(500).with_end(End::Reset)
            };
            let mut held = shared.held.subscribe();
            async move {
                // The sender lives as long as the issuer.
                let _ = held.wait_for(|held| !held).await;
                reply
            }
        });
        Self { keys, state, _serving: serving }
    }

    /// Returns the `iss` of its tokens, which is also the base URL of `/jwks`.
    pub(crate) fn url(&self) -> &str {
        self.keys.name()
    }

    /// Starts or stops serving the key set. While it is down, every connection is reset.
    pub(crate) fn set_up(&self, up: bool) {
        self.state.up.store(up, Ordering::SeqCst);
    }

    /// Responds to no request for the key set until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Responds to every held request, and to new ones at once.
    pub(crate) fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Returns how often the key set was requested.
    pub(crate) fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// Signs a token with these claims on top of [`super::with_defaults`].
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.keys.sign(&super::with_defaults(self.url(), claims))
    }
}
