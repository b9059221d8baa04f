//! Judges a request without a server, with the function that a server uses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Version};
use serde_json::{Map, Value};

use super::Usage;
use crate::auth::{Algorithm, BearerError, BearerToken, KeySource, Principal, SharedSecret, TokenError};
use crate::clock::{Clock, SystemClock, UnixTime};
use crate::config::Config;
use crate::decisions::Consulted;
use crate::gatekeeper::SigningKey;
use crate::metrics::Metrics;
use crate::policy::{Miss, RuleId};
use crate::proxy::{Caller, Decision, Gateway, Proxy, RequestHead, Rules, decide};
use crate::rejection::Rejection;
use crate::rewrite::UpstreamRequest;
use crate::secret::Secret;
use crate::shape::{ShapeClaims, SubsetQuery};

/// A configuration at a point in time, which judges requests.
pub(super) struct Court {
    gateway: Gateway,
    _proxy: Arc<Proxy>,
    clock: Fixed,
    /// Signs sample claims; `None` if only tokens of the configured issuers are judged.
    signer: Option<Signer>,
}

/// A request to judge.
pub(super) struct Request {
    pub(super) method: Method,
    /// The request target as the client writes it.
    pub(super) target: String,
    pub(super) token: Option<String>,
    pub(super) body: Option<Vec<u8>>,
}

/// The decision about a request, and how it came about.
pub(super) struct Verdict {
    /// The rules that do not allow the request, in the order in which they were tried.
    pub(super) missed: Vec<Missed>,
    /// The rule that decided; `None` if no rule was reached.
    pub(super) rule: Option<RuleId>,
    /// The caller; `None` without a valid token.
    pub(super) principal: Option<Arc<Principal>>,
    /// Why the token is rejected.
    pub(super) token_error: Option<TokenError>,
    /// What decision services said.
    pub(super) consulted: Vec<Consulted>,
    pub(super) decision: Result<Allowed, Rejection>,
}

/// How an allowed request is answered.
pub(super) enum Allowed {
    /// By Electric.
    Electric(Box<UpstreamRequest>),
    /// By shapegate itself, with this outcome.
    Own(&'static str),
}

/// A rule that does not allow a request.
pub(super) struct Missed {
    pub(super) rule: RuleId,
    pub(super) table: String,
    /// The rule, its line in the file, and the values that decided.
    pub(super) words: String,
}

/// A clock that stands still, so that a decision can be repeated.
#[derive(Clone, Copy)]
struct Fixed(UnixTime);

impl Clock for Fixed {
    fn now(&self) -> UnixTime {
        self.0
    }
}

/// Signs sample claims in the name of the configured issuers.
struct Signer {
    key: SigningKey,
    /// The name, one audience and the longest lifetime of each issuer.
    issuers: Vec<(String, Option<String>, Option<Duration>)>,
}

impl Court {
    /// Judges the tokens of the configured issuers.
    pub(super) fn for_tokens(mut config: Config, now: UnixTime) -> anyhow::Result<Self> {
        // The saved key sets belong to a running server, so they are not used.
        (config.server.state, config.limits.verdict_bytes) = (None, 0);
        Self::open(config, now, None)
    }

    /// Judges sample claims, for which it needs neither secrets nor keys: a key made for this process signs them in the
    /// name of the configured issuers, so that each check of claims is made as for a real token.
    pub(super) fn for_claims(path: &Path, now: UnixTime) -> anyhow::Result<Self> {
        let mut config = Config::load_without_secrets(path)?;
        let secret = Secret::new(crate::hex::hex(&rand::random::<[u8; 32]>()));
        // The gatekeeper's own tokens cannot be imitated without its key.
        config.issuers.retain(|issuer| issuer.shape_claims != ShapeClaims::Own);
        for issuer in &mut config.issuers {
            let shared = SharedSecret { algorithm: Algorithm::Hs256, secret: secret.clone() };
            issuer.keys = KeySource { shared: vec![shared], ..KeySource::default() };
            (issuer.algorithms, issuer.introspection) = (vec![Algorithm::Hs256], None);
            issuer.types = vec![TYPE.to_ascii_lowercase()];
        }
        let named = config.issuers.iter();
        let issuers =
            named.map(|issuer| (issuer.issuer.clone(), issuer.audience.first().cloned(), issuer.max_lifetime));
        let signer = Signer { issuers: issuers.collect(), key: SigningKey::shared(secret) };
        (config.server.state, config.limits.verdict_bytes) = (None, 0);
        Self::open(config, now, Some(signer))
    }

    fn open(config: Config, now: UnixTime, signer: Option<Signer>) -> anyhow::Result<Self> {
        let clock = Fixed(now);
        let (gateway, proxy) = super::gateway(config, Arc::new(clock), Arc::new(Metrics::new()?))?;
        Ok(Self { gateway, _proxy: proxy, clock, signer })
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.gateway.rules()
    }

    /// Signs sample claims. Those that every token needs are added if they are missing.
    pub(super) fn sign(&self, claims: Map<String, Value>) -> anyhow::Result<String> {
        let signer = self.signer.as_ref().context("no sample claims were expected")?;
        signer.sign(claims, self.clock.0).context("the claims cannot be signed")
    }

    /// Decides about a request as a server would, except for limits on rates and numbers.
    pub(super) async fn judge(&self, request: &Request) -> anyhow::Result<Verdict> {
        let rules = self.rules();
        let headers = request.headers()?;
        let head = RequestHead {
            method: &request.method,
            target: Bytes::copy_from_slice(request.target.as_bytes()),
            version: Version::HTTP_11,
            headers: &headers,
            has_body: request.body.is_some(),
            sizes: Some(&rules.limits),
        };
        let mut party = Party::default();
        let decision = decide(&rules, &self.clock, &head, &mut party).await;
        let decision = decision.and_then(|decision| request.allowed(&rules, decision));
        let Party { missed, rule, principal, token_error, consulted } = party;
        Ok(Verdict { missed, rule, principal, token_error, consulted, decision })
    }
}

/// The `typ` of signed sample claims.
const TYPE: &str = "JWT";

/// How long sample claims are valid.
const LIFETIME: Duration = Duration::from_secs(3600);

impl Signer {
    fn sign(&self, mut claims: Map<String, Value>, now: UnixTime) -> Option<String> {
        let named = claims.get("iss").and_then(Value::as_str);
        let issuer = match named {
            None if claims.contains_key("iss") => None,
            None => self.issuers.first(),
            Some(name) => self.issuers.iter().find(|(issuer, ..)| issuer == name),
        };
        let longest = issuer.and_then(|(.., longest)| *longest).unwrap_or(LIFETIME);
        let name = issuer.map(|(name, ..)| name.as_str());
        let audience = issuer.and_then(|(_, audience, _)| audience.as_deref());
        complete(&mut claims, name, audience, now, longest.min(LIFETIME));
        self.key.token(TYPE, &claims.into())
    }
}

/// Adds the claims that every token needs, unless they are there.
pub(super) fn complete(
    claims: &mut Map<String, Value>,
    issuer: Option<&str>,
    audience: Option<&str>,
    now: UnixTime,
    lifetime: Duration,
) {
    let texts = [("iss", issuer), ("aud", audience)].into_iter().filter_map(|(name, text)| Some((name, text?.into())));
    let times = [("iat", now), ("exp", now.saturating_add(lifetime))].map(|(name, time)| (name, time.as_secs().into()));
    for (name, value) in texts.chain(times) {
        claims.entry(name).or_insert(value);
    }
}

impl Request {
    /// Returns the target of a URL as the server would see it, without normalization.
    pub(super) fn target_of(url: &str) -> Result<String, Usage> {
        let target = match url.split_once("://") {
            None => url,
            Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        };
        if !target.starts_with('/') {
            return Err(Usage("URL: give a URL with a path, or a path with a query"));
        }
        Ok(target.to_owned())
    }

    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("explain"))]);
        if let Some(token) = &self.token {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.context("the token has a character that no header may have")?);
        }
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(headers)
    }

    fn allowed(&self, rules: &Rules, decision: Decision) -> Result<Allowed, Rejection> {
        let grant = match decision {
            Decision::Document(document) => return Ok(Allowed::Own(document.outcome)),
            Decision::Preflight(_) => return Ok(Allowed::Own("preflight")),
            Decision::Shape(grant) => grant,
            Decision::Subset(pending) => {
                let body = SubsetQuery::from_body(self.body.as_deref().unwrap_or_default());
                pending.read(rules, body.map_err(Rejection::InvalidRequest)?)?
            }
        };
        Ok(Allowed::Electric(Box::new(grant.upstream)))
    }
}

/// Observes a decision. Its token is verified like a client's, but it does not count against limits.
#[derive(Default)]
struct Party {
    missed: Vec<Missed>,
    rule: Option<RuleId>,
    principal: Option<Arc<Principal>>,
    token_error: Option<TokenError>,
    consulted: Vec<Consulted>,
}

impl Caller for Party {
    async fn authenticate(
        &mut self,
        rules: &Rules,
        head: &RequestHead<'_>,
        has_public: bool,
    ) -> Result<Option<Arc<Principal>>, Rejection> {
        let token = match BearerToken::from_headers(head.headers, rules.limits.token_bytes) {
            Err(BearerError::Missing) if has_public => return Ok(None),
            token => token?,
        };
        rules.verifier.fetch_keys_for(&token).await;
        let verified = rules.verifier.verify(&token).await.inspect_err(|error| self.token_error = Some(*error))?;
        self.principal = Some(Arc::clone(&verified.principal));
        Ok(Some(verified.principal))
    }

    fn missed(&mut self, miss: &Miss<'_, '_>) {
        let words = format!("{} (line {}): {}", miss.label(), miss.line(), miss.words());
        self.missed.push(Missed { rule: miss.rule.clone(), table: miss.table().to_owned(), words });
    }

    fn consulted(&mut self, consulted: &[Consulted]) {
        self.consulted = consulted.to_vec();
    }

    fn ruled(&mut self, rule: &RuleId, _upstream: Option<&crate::shape::UpstreamName>) {
        self.rule = Some(rule.clone());
    }
}

/// Reads a time: seconds since 1970, or RFC 3339 as in `2026-01-31T12:00:00Z`. The current time if `text` is `None`.
pub(super) fn time(text: Option<&str>) -> Result<UnixTime, Usage> {
    let Some(text) = text else { return Ok(SystemClock.now()) };
    let seconds = text.parse().ok().or_else(|| {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
    });
    seconds.map(UnixTime::from_secs).ok_or(Usage("now: give seconds since 1970, or a time as 2026-01-31T12:00:00Z"))
}

/// Parses sample claims.
pub(super) fn claims(text: &str) -> Result<Map<String, Value>, Usage> {
    crate::json::parse_object(text.as_bytes())
        .map_err(|_| Usage(r#"--claims: give a JSON object, as in {"sub": "user-1"}"#))
}
