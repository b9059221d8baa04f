//! Reads the list of revocations again and again. A list that cannot be read changes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Client;

use super::list::{self, Index, MAX_LIST_BYTES};
use super::{RevocationSettings, RevocationSource, Revocations};
use crate::auth::http::{exchange, within};
use crate::digest::sha256;

impl Revocations {
    /// Reads the list of `settings` at once and then in its interval, forever.
    pub(crate) async fn keep_current(self: Arc<Self>, settings: Arc<RevocationSettings>) {
        let Some(source) = &settings.source else { return };
        let mut client = None;
        let mut last = None;
        // A fleet does not ask at the same moment.
        let interval = settings.interval.mul_f64(rand::random_range(0.75..1.0));
        loop {
            let read = match source {
                RevocationSource::File(path) => read_in_background(path.clone()).await,
                RevocationSource::Url(_) => fetch(source, &mut client).await,
            };
            match read.and_then(|bytes| self.take(&bytes, &mut last)) {
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
    fn take(&self, bytes: &[u8], last: &mut Option<[u8; 32]>) -> Result<(), String> {
        let digest = sha256(bytes);
        if *last != Some(digest) {
            self.publish(Some(Index::of(list::parse(bytes).map_err(|error| error.to_string())?)));
            *last = Some(digest);
        }
        Ok(())
    }

    fn read(&self, succeeded: bool) {
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
    read.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
}

/// Reads a list, or so much of a longer file that it is too long. Blocks.
pub(super) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_LIST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn fetch(source: &RevocationSource, client: &mut Option<Client>) -> Result<Vec<u8>, String> {
    let RevocationSource::Url(endpoint) = source else { return Err("not a URL".to_owned()) };
    let client = match client {
        Some(client) => client,
        None => client.insert(endpoint.client(1).map_err(|error| error.to_string())?),
    };
    let fetched = exchange(client.get(endpoint.url.clone()), MAX_LIST_BYTES);
    within(endpoint.timeout, fetched).await.map(|document| document.body).map_err(|error| error.to_string())
}
