//! Sends questions to a service.

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Identity, RequestBuilder};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use url::Url;

use super::answer::{self, Failure, Next, Pages, Verdict};
use super::metadata::{self, Endpoints};
use super::question::{Kind, Question};
use super::settings::ServiceSettings;
use crate::auth::{FetchError, exchange, network};
use crate::secret::Secret;

/// The most requests to one service at a time.
const CONCURRENT: usize = 256;

/// The most idle connections to one service.
const IDLE: usize = 32;

/// A client of one service.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    settings: ServiceSettings,
    discovered: Mutex<Option<Endpoints>>,
    slots: Semaphore,
}

/// An answer, and its size in bytes.
pub(super) type Read = (Verdict, usize);

impl Client {
    pub(super) fn new(settings: ServiceSettings) -> Result<Self, FetchError> {
        let mut http = settings.endpoint.builder(IDLE)?;
        if let Some(identity) = &settings.identity {
            http = http.identity(Identity::from_pem(identity.expose().as_bytes()).map_err(network)?);
        }
        let http = http.default_headers(headers(settings.token.as_ref())).build().map_err(network)?;
        Ok(Self { http, settings, discovered: Mutex::default(), slots: Semaphore::new(CONCURRENT) })
    }

    pub(super) const fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// Sends a question, within the timeout of the service.
    pub(super) async fn ask(&self, question: &Question) -> Result<Read, Failure> {
        let limit = self.settings.endpoint.timeout;
        let _slot = timeout(limit, self.slots.acquire()).await.map_err(|_| Failure::Overloaded)?;
        timeout(limit, self.read(question)).await.map_err(|_| FetchError::Timeout)?
    }

    async fn read(&self, question: &Question) -> Result<Read, Failure> {
        let endpoints = self.endpoints().await?;
        match &question.kind {
            Kind::Evaluation => {
                let url = endpoints.evaluation.ok_or(Failure::Malformed(NO_EVALUATION))?;
                let body = self.post(url, question.body.clone(), self.settings.response_bytes).await?;
                Ok((answer::evaluation(&body)?, body.len()))
            }
            Kind::Search(of) => {
                self.search(&endpoints.search.ok_or(Failure::Malformed(NO_SEARCH))?, question, of).await
            }
        }
    }

    async fn search(&self, url: &Url, question: &Question, of: &str) -> Result<Read, Failure> {
        let mut pages = Pages::new(of, self.settings.most);
        let (mut read, mut body) = (0, question.body.clone());
        for _ in 0..MOST_PAGES {
            let page = self.post(url.clone(), body, self.settings.response_bytes - read).await?;
            read += page.len();
            match pages.add(&page)? {
                Next::End => return Ok((pages.verdict(), read)),
                Next::Page(token) => body = question.page(&token),
            }
        }
        Err(Failure::Malformed("has too many pages"))
    }

    async fn post(&self, url: Url, body: Vec<u8>, max_bytes: usize) -> Result<Vec<u8>, FetchError> {
        let request: RequestBuilder = self.http.post(url).header(CONTENT_TYPE, "application/json").body(body);
        Ok(exchange(request, max_bytes).await?.body)
    }

    /// Returns where to send questions. The service's metadata is fetched once, and again after a reload that changes
    /// the service.
    async fn endpoints(&self) -> Result<Endpoints, Failure> {
        if !self.settings.discover {
            return Ok(Endpoints::usual(&self.settings.endpoint.url));
        }
        let mut discovered = self.discovered.lock().await;
        if let Some(endpoints) = &*discovered {
            return Ok(endpoints.clone());
        }
        let place = metadata::place(&self.settings.endpoint.url);
        let body = exchange(self.http.get(place), metadata::MAX_BYTES).await?.body;
        let endpoints = metadata::parse(&body, &self.settings.endpoint)?;
        *discovered = Some(endpoints.clone());
        Ok(endpoints)
    }
}

fn headers(token: Option<&Secret>) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    // The configuration accepts only tokens that a header can hold.
    if let Some(mut value) = token.and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

const NO_EVALUATION: &str = "names no `access_evaluation_endpoint`";
const NO_SEARCH: &str = "names no `search_resource_endpoint`";

/// The most pages of one search, in case a service repeats itself.
const MOST_PAGES: usize = 100;
