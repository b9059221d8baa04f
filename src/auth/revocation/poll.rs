//! Reads the list of revocations again and again. A list that cannot be read changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Client;

use super::list::{MAX_LIST_BYTES, read_file};
use super::{List, RevocationSettings, RevocationSource, Revocations};
use crate::auth::http::{Endpoint, exchange, within};

impl Revocations {
    /// Reads the list of `settings` in its interval, forever. A file was read with the configuration; a URL is read at
    /// once.
    pub(crate) async fn keep_current(self: Arc<Self>, settings: Arc<RevocationSettings>) {
        let Some(source) = &settings.source else { return };
        let mut client = None;
        // A fleet does not ask at the same moment.
        let interval = settings.interval.mul_f64(rand::random_range(0.75..1.0));
        if matches!(source, RevocationSource::File(_)) {
            tokio::time::sleep(interval).await;
        }
        loop {
            let read = match source {
                RevocationSource::File(path) => read_in_background(path.clone()).await,
                RevocationSource::Url(endpoint) => fetch(endpoint, &mut client).await,
            };
            match read.and_then(|bytes| self.take(&bytes)) {
                Ok(()) => self.read(true),
                Err(error) => {
                    tracing::error!(error, "list of revocations not read; the last one stays in use");
                    self.read(false);
                }
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Uses the list, if it differs from the last one.
    fn take(&self, bytes: &[u8]) -> Result<(), String> {
        if !self.listed.load().as_ref().is_some_and(|last| last.is(bytes)) {
            self.publish(Some(List::parse(bytes).map_err(|error| error.to_string())?.into()));
        }
        Ok(())
    }

    pub(super) fn read(&self, succeeded: bool) {
        let mut reading = self.reading();
        reading.failing = !succeeded;
        if succeeded {
            reading.succeeded += 1;
            reading.read_at = Some(self.clock.now());
        } else {
            reading.failed += 1;
        }
    }
}

async fn read_in_background(path: PathBuf) -> Result<Vec<u8>, String> {
    let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
    read.map_err(|panic| panic.to_string())?
}

async fn fetch(endpoint: &Endpoint, client: &mut Option<Client>) -> Result<Vec<u8>, String> {
    let client = match client {
        Some(client) => client,
        None => client.insert(endpoint.client(1).map_err(|error| error.to_string())?),
    };
    let fetched = exchange(client.get(endpoint.url.clone()), MAX_LIST_BYTES);
    within(endpoint.timeout, fetched).await.map(|document| document.body).map_err(|error| error.to_string())
}
