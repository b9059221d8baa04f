//! Reads the demo's figures from shapegate's metrics, as Prometheus would.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// Reads `/metrics` of the admin port.
pub(super) struct Measure {
    client: reqwest::Client,
    url: String,
}

impl Measure {
    pub(super) fn new(client: reqwest::Client, admin: SocketAddr) -> Self {
        Self { client, url: format!("http://{admin}/metrics") }
    }

    /// Returns waiting clients and requests in flight to Electric now, and responses and requests since the start.
    pub(super) async fn figures(&self) -> reqwest::Result<Figures> {
        let text = self.client.get(&self.url).send().await?.error_for_status()?.text().await?;
        Ok(Figures {
            waiting: sum(&text, "shapegate_followers"),
            upstream: sum(&text, "shapegate_upstream_requests_in_flight"),
            responses: sum(&text, "shapegate_requests_total"),
            requests: sum(&text, "shapegate_upstream_seconds_count"),
        })
    }
}

/// Figures of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) waiting: u64,
    pub(super) upstream: u64,
    pub(super) responses: u64,
    pub(super) requests: u64,
}

impl Figures {
    pub(super) fn json(self) -> Value {
        let Self { waiting, upstream, responses, requests } = self;
        json!({ "waiting": waiting, "upstream": upstream, "responses": responses, "requests": requests })
    }

    /// Says how many clients wait for how many requests.
    pub(super) fn words(self) -> String {
        let Self { waiting, upstream, .. } = self;
        let requests = if upstream == 1 { "request" } else { "requests" };
        format!("Electric is answering {upstream} {requests}; {waiting} clients are waiting")
    }
}

/// Adds up the samples of a metric in Prometheus's text format, over all labels.
fn sum(text: &str, metric: &str) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let is_metric = name.split('{').next() == Some(metric);
        is_metric.then(|| value.parse::<u64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn samples_are_added_over_labels_and_other_metrics_left_out() {
        let text = "# TYPE a counter\na{rule=\"x y\"} 2\na{rule=\"z\"} 3\na_b 7\nab 9\n";
        assert_eq!((sum(text, "a"), sum(text, "a_b"), sum(text, "c")), (5, 7, 0));
    }
}
