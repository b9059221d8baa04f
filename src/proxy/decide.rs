//! The order of decisions: all checks of a request, in one function that does not depend on Pingora.
//!
//! [`decide`] serves the request path, the re-check of waiting requests after a reload, the gatekeeper,
//! `shapegate explain` and `shapegate test`. They differ in how they authenticate and what they count: that is their
//! [`Caller`].

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use super::head::RequestHead;
use super::rules::Rules;
use crate::auth::Principal;
use crate::clock::Clock;
use crate::decisions::{Consulted, Questions};
use crate::gatekeeper::{Endpoint, Gatekeeper};
use crate::policy::{Denial, Miss, Permit, PolicySet, Progress, RuleId, Step, UnknownPath, Unmet};
use crate::rejection::Rejection;
use crate::rewrite::{RewriteError, UpstreamRequest};
use crate::shape::protocol::ProtocolParam;
use crate::shape::{Log, ScopedRequest, ShapeRequest, SubsetQuery, UpstreamName};

/// How a request that is not rejected is answered.
#[derive(Debug)]
pub(crate) enum Decision {
    /// With the response of a flight.
    Shape(Grant),
    /// With the subset that its body describes. The body is not read yet.
    Subset(Box<PendingSubset>),
    /// With a document of our own.
    Document(Document),
    /// As a preflight, with the methods that its target allows.
    Preflight(&'static str),
}

/// Proof that a request is authorized, with the request to send to Electric.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) upstream: UpstreamRequest,
    /// `None` if a public rule allowed a request without a token.
    pub(crate) principal: Option<Arc<Principal>>,
    /// The body, if it described a subset.
    pub(crate) posted: Option<Box<SubsetQuery>>,
    /// When decision services have to be asked again; `None` if none was asked.
    pub(crate) until: Option<Instant>,
}

/// Proof that a POST is authorized, before its body is read.
#[derive(Debug)]
pub(crate) struct PendingSubset {
    shape: ShapeRequest,
    permit: Permit,
    principal: Option<Arc<Principal>>,
}

/// A response of our own that is not a rejection: JSON.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) body: String,
    pub(crate) cache_control: &'static str,
    /// The outcome in metrics and logs.
    pub(crate) outcome: &'static str,
}

/// How a request authenticates, what it counts against, and who observes the decision.
pub(crate) trait Caller: Send {
    /// Counts the request against its address.
    fn arrive(&mut self, _head: &RequestHead<'_>) -> Result<(), Rejection> {
        Ok(())
    }

    /// Returns the verified principal; `None` if there is no token and `has_public` says that a public rule may apply.
    fn authenticate(
        &mut self,
        rules: &Rules,
        head: &RequestHead<'_>,
        has_public: bool,
    ) -> impl Future<Output = Result<Option<Arc<Principal>>, Rejection>> + Send;

    /// Counts the request against the rate of its subject.
    fn count(&mut self, _principal: Option<&Principal>) -> Result<(), Rejection> {
        Ok(())
    }

    /// Counts the request among those in progress, until it is answered.
    fn enter(&mut self, _principal: Option<&Principal>) -> Result<(), Rejection> {
        Ok(())
    }

    /// Observes how many unknown parameters were dropped.
    fn dropped(&mut self, _parameters: usize) {}

    /// Observes what decision services said.
    fn consulted(&mut self, _consulted: &[Consulted]) {}

    /// Observes a rule that was tried and does not allow the request.
    fn missed(&mut self, _miss: &Miss<'_, '_>) {}

    /// Observes the rule that decided; `upstream` is `None` if it denied.
    fn ruled(&mut self, _rule: &RuleId, _upstream: Option<&UpstreamName>) {}
}

/// Decides how to answer a request. The checks run from top to bottom, and the first that fails rejects it.
///
/// # Errors
/// The rejection to answer with.
pub(crate) async fn decide(
    rules: &Rules,
    clock: &dyn Clock,
    head: &RequestHead<'_>,
    caller: &mut impl Caller,
) -> Result<Decision, Rejection> {
    caller.arrive(head)?;
    head.check_headers()?;
    // Before the token: a preflight has none.
    if head.method == Method::OPTIONS {
        return Ok(Decision::Preflight(preflight_methods(rules, head)?));
    }
    let (path, query) = head.split_target()?;
    if let Some((gatekeeper, endpoint)) = gatekeeper(rules, path) {
        return serve_gatekeeper(rules, clock, gatekeeper, endpoint, head, query, caller).await.map(Decision::Document);
    }
    let own_path = rules.policy.endpoint(path).map_err(|UnknownPath| Rejection::NotFound)?;
    check_method(&rules.policy, own_path, head)?;
    let principal = caller.authenticate(rules, head, rules.policy.has_public()).await?;
    caller.count(principal.as_deref())?;
    let (shape, permit) = authorize(rules, clock, principal.as_deref(), own_path, query, caller).await?;
    if head.method == Method::POST && !permit.subset() {
        return Err(Rejection::MethodNotAllowed(METHODS));
    }
    caller.enter(principal.as_deref())?;
    let pending = PendingSubset { shape, permit, principal };
    if head.method == Method::POST {
        Ok(Decision::Subset(Box::new(pending)))
    } else {
        pending.grant(rules).map(Decision::Shape)
    }
}

impl PendingSubset {
    /// Builds the request for the subset that the body describes.
    ///
    /// # Errors
    /// The body contains something that the rule does not allow.
    pub(crate) fn read(self, rules: &Rules, body: SubsetQuery) -> Result<Grant, Rejection> {
        let shape = self.shape.with_body(body.clone()).map_err(Rejection::InvalidRequest)?;
        let until = self.permit.until();
        let upstream = rewrite(rules, &shape, self.permit)?;
        Ok(Grant { upstream, principal: self.principal, posted: Some(Box::new(body)), until })
    }

    /// Builds the request for the shape, or the subset, that the query describes.
    fn grant(self, rules: &Rules) -> Result<Grant, Rejection> {
        let until = self.permit.until();
        let upstream = rewrite(rules, &self.shape, self.permit)?;
        Ok(Grant { upstream, principal: self.principal, posted: None, until })
    }
}

fn check_method(policy: &PolicySet, own_path: Option<&str>, head: &RequestHead<'_>) -> Result<(), Rejection> {
    match *head.method {
        Method::GET => head.check_bodiless(),
        Method::POST if policy.takes_subsets(own_path) => head.check_json_body(),
        _ => Err(Rejection::MethodNotAllowed(methods(policy, own_path))),
    }
}

/// Reads the query and decides on it: by the bearer's shape token, or by the rules.
async fn authorize(
    rules: &Rules,
    clock: &dyn Clock,
    principal: Option<&Principal>,
    own_path: Option<&str>,
    query: &str,
    caller: &mut impl Caller,
) -> Result<(ShapeRequest, Permit), Rejection> {
    let policy = &rules.policy;
    let judged = match principal.and_then(Principal::shape) {
        Some(claim) => {
            let request = ScopedRequest::parse(own_path, query).map_err(Rejection::InvalidRequest)?;
            policy.authorize_shape(claim, &request).map(|permit| (request.into_protocol(), permit))
        }
        None => {
            let request =
                ShapeRequest::parse(own_path, query, policy.parameters()).map_err(Rejection::InvalidRequest)?;
            let mut progress = Progress::default();
            let mut observe = |miss: &Miss<'_, '_>| caller.missed(miss);
            let judged = match policy.judge(principal, &request, clock.now(), &mut progress, &mut observe) {
                Ok(Step::Permit(permit)) => Ok(permit),
                Err(denial) => Err(denial),
                // On the heap, so that the future of a request that asks no service stays small.
                Ok(Step::Ask(questions)) => {
                    Box::pin(ask(policy, principal, &request, clock, questions, &mut progress, caller)).await
                }
            };
            if !progress.consulted().is_empty() {
                caller.consulted(progress.consulted());
            }
            judged.map(|permit| (request, permit))
        }
    };
    let (shape, permit) = judged.map_err(|denial| denied(denial, caller))?;
    caller.ruled(permit.rule(), Some(permit.upstream()));
    caller.dropped(shape.dropped());
    Ok((shape, permit))
}

/// Asks decision services until their answers decide the request.
async fn ask(
    policy: &PolicySet,
    principal: Option<&Principal>,
    request: &ShapeRequest,
    clock: &dyn Clock,
    mut questions: Questions,
    progress: &mut Progress,
    caller: &mut impl Caller,
) -> Result<Permit, Denial> {
    loop {
        progress.answer(questions.ask().await);
        let mut observe = |miss: &Miss<'_, '_>| caller.missed(miss);
        match policy.judge(principal, request, clock.now(), progress, &mut observe)? {
            Step::Permit(permit) => return Ok(permit),
            Step::Ask(others) => questions = others,
        }
    }
}

/// Builds the request to Electric that a permit allows.
///
/// # Errors
/// The client sent something that the permit does not allow, or the request is too long for Electric.
pub(crate) fn rewrite(rules: &Rules, shape: &ShapeRequest, permit: Permit) -> Result<UpstreamRequest, Rejection> {
    let source_id = rules.upstreams.source_id(permit.upstream());
    UpstreamRequest::build(permit, shape, source_id).map_err(|error| match error {
        RewriteError::Invalid(errors) => Rejection::InvalidRequest(errors),
        RewriteError::TooLong => Rejection::ValuesTooLong,
    })
}

fn denied(denial: Denial, caller: &mut impl Caller) -> Rejection {
    match denial {
        Denial::Forbidden(rule, unmet) => {
            caller.ruled(&rule, None);
            Rejection::Forbidden(unmet)
        }
        Denial::Undecided(rule) => {
            caller.ruled(&rule, None);
            Rejection::DecisionUnavailable(Duration::from_secs(rand::random_range(RETRY_AFTER)))
        }
        Denial::ShapeNotFound => Rejection::ShapeNotFound,
        Denial::TokenMissing => Rejection::TokenMissing,
    }
}

fn gatekeeper<'a>(rules: &'a Rules, path: &'a str) -> Option<(&'a Gatekeeper, Endpoint<'a>)> {
    let gatekeeper = rules.gatekeeper.as_ref()?;
    Some((gatekeeper, gatekeeper.endpoint(path)?))
}

/// Serves the gatekeeper's paths: its public key for everyone, and a token for one shape if the rules allow it.
async fn serve_gatekeeper(
    rules: &Rules,
    clock: &dyn Clock,
    gatekeeper: &Gatekeeper,
    endpoint: Endpoint<'_>,
    head: &RequestHead<'_>,
    query: &str,
    caller: &mut impl Caller,
) -> Result<Document, Rejection> {
    let method = if matches!(endpoint, Endpoint::Keys) { Method::GET } else { Method::POST };
    if head.method != method {
        return Err(Rejection::MethodNotAllowed(endpoint.methods()));
    }
    head.check_bodiless()?;
    let Endpoint::Table(table) = endpoint else {
        let body = gatekeeper.key.jwks().ok_or(Rejection::NotFound)?.to_string();
        return Ok(Document { body, cache_control: "public, max-age=300", outcome: "jwks" });
    };
    let user = caller.authenticate(rules, head, rules.policy.has_public()).await?;
    caller.count(user.as_deref())?;
    // A token for one shape does not give a token for another one.
    if user.as_ref().is_some_and(|user| user.shape().is_some()) {
        return Err(Rejection::Forbidden(Unmet::ShapeToken));
    }
    caller.enter(user.as_deref())?;
    // The path names the table. The client's offset is not known yet.
    let query = format!("table={table}&offset=-1&{query}");
    let (shape, permit) = authorize(rules, clock, user.as_deref(), None, &query, caller).await?;
    mint(rules, clock, gatekeeper, user.as_deref(), &shape, permit)
}

fn mint(
    rules: &Rules,
    clock: &dyn Clock,
    gatekeeper: &Gatekeeper,
    user: Option<&Principal>,
    shape: &ShapeRequest,
    permit: Permit,
) -> Result<Document, Rejection> {
    let permit = permit.closed().narrowed(shape).map_err(Rejection::InvalidRequest)?;
    let log = Log::of(shape.protocol(ProtocolParam::Log)).unwrap_or_default();
    let minted = gatekeeper.mint(&permit, log, user, clock.now()).ok_or(Rejection::Internal)?;
    if minted.token_len() > rules.limits.token_bytes {
        return Err(Rejection::ValuesTooLong);
    }
    let body = minted.config(&gatekeeper.public_url);
    Ok(Document { body, cache_control: "no-store", outcome: "minted" })
}

/// The seconds after which a client tries again if a decision service does not answer. Random, so that clients do not
/// come back together.
const RETRY_AFTER: RangeInclusive<u64> = 2..=6;

/// The methods of an endpoint without subsets.
const METHODS: &str = "GET, OPTIONS";

/// The methods of an endpoint at which a rule allows subsets.
const WITH_POST: &str = "GET, POST, OPTIONS";

fn methods(policy: &PolicySet, own_path: Option<&str>) -> &'static str {
    if policy.takes_subsets(own_path) { WITH_POST } else { METHODS }
}

/// Returns the methods that a preflight lists for its target.
fn preflight_methods(rules: &Rules, head: &RequestHead<'_>) -> Result<&'static str, Rejection> {
    // `OPTIONS *` asks about the server itself (RFC 9110 section 9.3.7), which has nothing to say.
    if &*head.target == b"*" {
        return Err(Rejection::invalid("target", "must be a path and a query"));
    }
    let path = head.split_target().map(|(path, _)| path).unwrap_or_default();
    if let Some((_, endpoint)) = gatekeeper(rules, path) {
        return Ok(endpoint.methods());
    }
    Ok(rules.policy.endpoint(path).map_or(METHODS, |own_path| methods(&rules.policy, own_path)))
}
