//! A policy decision point whose answers a test sets, and which records what it is asked.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use shapegate::demo::http::{End, Reply, Request, Server, Serving};
use tokio::sync::watch;

type Decide = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// A running policy decision point.
pub(crate) struct Pdp {
    url: String,
    state: Arc<State>,
    _serving: Serving,
}

struct State {
    decide: Mutex<Arc<Decide>>,
    asked: watch::Sender<Vec<Value>>,
    held: watch::Sender<bool>,
}

impl Pdp {
    /// Starts one that allows everything.
    pub(crate) async fn start() -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let (asked, held) = (watch::channel(Vec::new()).0, watch::channel(false).0);
        let state = Arc::new(State { decide: Mutex::new(Arc::new(|_, _| allow())), asked, held });
        let shared = Arc::clone(&state);
        let serving = server.serve(move |request| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(&request).await }
        });
        Self { url, state, _serving: serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Answers from now on with what `decide` makes of the path and the body.
    pub(crate) fn decides(&self, decide: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) {
        *self.state.decide.lock() = Arc::new(decide);
    }

    /// From now on resets every connection before the answer is complete.
    pub(crate) fn goes_down(&self) {
        self.decides(|_, _| allow().with_end(End::Reset));
    }

    /// Holds all answers back, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// Returns the bodies of all requests so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.state.asked.borrow().clone()
    }

    /// Waits until it has been asked `count` times.
    pub(crate) async fn until_asked(&self, count: usize) {
        self.state.asked.subscribe().wait_for(|asked| asked.len() >= count).await.unwrap();
    }
}

impl State {
    async fn answer(&self, request: &Request) -> Reply {
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        self.asked.send_modify(|asked| asked.push(Value::clone(&body)));
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        let decide = Arc::clone(&self.decide.lock());
        decide(request.path(), &body)
    }
}

/// An answer that allows.
pub(crate) fn allow() -> Reply {
    Reply::json(200, r#"{"decision":true}"#)
}

/// An answer that denies.
pub(crate) fn deny() -> Reply {
    Reply::json(200, r#"{"decision":false}"#)
}

/// The last page of a search, with resources of this type.
pub(crate) fn found(of: &str, ids: &[&str]) -> Reply {
    let results: Vec<_> = ids.iter().map(|id| json!({ "type": of, "id": id })).collect();
    Reply::json(200, json!({ "results": results, "page": { "next_token": "" } }).to_string())
}
