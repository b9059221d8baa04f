//! Authenticates requests, and checks again while they wait that their token is valid.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::decide::Caller;
use super::follow::Interrupt;
use super::gateway::Gateway;
use super::head::RequestHead;
use super::rules::Rules;
use crate::auth::{
    BearerError, BearerToken, Check, Examined, InvalidReason, Principal, TokenError, TokenVerifier, Verified,
};
use crate::clock::UnixTime;
use crate::decisions::Consulted;
use crate::fault::Fault;
use crate::limits::{Address, Client, Place};
use crate::policy::RuleId;
use crate::rejection::Rejection;
use crate::shape::{SubsetQuery, UpstreamName};
use crate::telemetry::Record;

/// The bearer of a request that waits for a response.
#[derive(Debug)]
pub(super) struct Bearer {
    principal: Option<Arc<Principal>>,
    /// The client's address, if addresses distinguish clients.
    address: Option<Address>,
    /// The body of the request, if it described a subset.
    posted: Option<Box<SubsetQuery>>,
    /// When decision services have to be asked again; `None` if none was asked.
    until: Option<Instant>,
    /// Counts the request against the limits on requests in progress, until it is dropped.
    _place: Option<Place>,
}

impl Bearer {
    pub(super) const fn new(
        principal: Option<Arc<Principal>>,
        address: Option<Address>,
        posted: Option<Box<SubsetQuery>>,
        place: Option<Place>,
        until: Option<Instant>,
    ) -> Self {
        Self { principal, address, posted, until, _place: place }
    }

    /// Checks that the token is still valid: it may have expired, or its key may have been removed (docs/security.md,
    /// T19, C8).
    pub(super) fn recheck(&self, verifier: &TokenVerifier) -> Result<(), Fault> {
        let Some(principal) = &self.principal else { return Ok(()) };
        verifier.recheck(principal).map_err(|error| match error {
            TokenError::Expired => Fault::TokenExpired,
            TokenError::Invalid(InvalidReason::Revoked) => Fault::TokenRevoked,
            TokenError::Invalid(_) => Fault::KeyGone,
            TokenError::KeysUnavailable { retry_after } => Fault::KeysUnavailable(retry_after),
            TokenError::Unavailable { retry_after } => Fault::AuthUnavailable(retry_after),
        })
    }

    /// Whether decision services have to be asked again.
    pub(super) fn must_ask_again(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Waits until the token is no longer valid, or until decision services have to be asked again.
    pub(super) async fn end(&self, gateway: &Gateway, verifier: &TokenVerifier) -> Interrupt {
        loop {
            match self.time_left(gateway.clock.now()) {
                Some(left) if left < LONGEST_WAIT => sleep(left).await,
                // The wait ends earlier, and the token is checked again then.
                _ => std::future::pending().await,
            }
            if self.must_ask_again() {
                return Interrupt::Change;
            }
            if let Err(fault) = self.recheck(verifier) {
                return Interrupt::Fault(fault);
            }
        }
    }

    /// Returns how long token and decisions are still valid, at least 1 ms; `None` without either.
    fn time_left(&self, now: UnixTime) -> Option<Duration> {
        let token = self.principal.as_ref().map(|principal| principal.expires_at().saturating_since(now));
        let decision = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        Some(token.into_iter().chain(decision).min()?.max(Duration::from_millis(1)))
    }

    pub(super) const fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Replaces the principal by one that was verified again, and the time of the next questions.
    pub(super) fn renew(&mut self, principal: Option<Arc<Principal>>, until: Option<Instant>) {
        (self.principal, self.until) = (principal, until);
    }

    pub(super) const fn address(&self) -> Option<Address> {
        self.address
    }

    pub(super) fn posted(&self) -> Option<SubsetQuery> {
        self.posted.as_deref().cloned()
    }

    /// Returns the client whose limits its flights count against; `None` if neither a token nor an address identifies
    /// one. A shape token that was minted without a user counts against its address, since each such token would
    /// otherwise have separate limits.
    pub(super) fn client(&self) -> Option<Client> {
        let address = self.address.map(Client::Address);
        match &self.principal {
            Some(principal) if !(principal.is_for_nobody() && address.is_some()) => {
                Some(Client::Subject(principal.subject_key().clone()))
            }
            _ => address,
        }
    }
}

/// The longest time to a token's expiry for which a timer is set. Electric may not be silent for so long
/// (`upstream.read_timeout`), so a longer timer would never fire, but would cost memory for every waiting client.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Returns the verified principal; `None` if there is no token and a public rule may apply.
///
/// Calls `before_wait` if the request has to wait for its issuer's keys, so that it is counted before.
pub(super) async fn authenticate(
    gateway: &Gateway,
    rules: &Rules,
    head: &RequestHead<'_>,
    address: Option<Address>,
    has_public: bool,
    record: &mut Record,
    before_wait: impl FnOnce() -> Result<(), Rejection>,
) -> Result<Option<Arc<Principal>>, Rejection> {
    let token = match BearerToken::from_request(head.headers, rules.verifier.cookies(), rules.limits.token_bytes) {
        Ok(token) => token,
        Err(BearerError::Missing) if has_public => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if token.cookie().is_some() {
        head.check_preflighted()?;
    }
    match verify(gateway, &rules.verifier, &token, address, record.started, before_wait).await {
        Ok(verified) => {
            gateway.metrics.token_checked(verified.check.as_str());
            record.token = Some(verified.principal.token_hash().into());
            record.principal = Some(Arc::clone(&verified.principal));
            Ok(Some(verified.principal))
        }
        Err(Refusal::Limited(rejection)) => Err(rejection),
        Err(Refusal::Token(error)) => {
            gateway.metrics.token_checked(error.as_str());
            record.token = Some(token.hash().into());
            Err(error.into())
        }
    }
}

/// Why a token is not verified.
enum Refusal {
    /// A limit is reached.
    Limited(Rejection),
    /// The token is rejected.
    Token(TokenError),
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

/// Verifies a token. Only a check of a signature counts against the limits of its address: a token that fails an
/// earlier check costs little, and one that was verified before costs nothing.
async fn verify(
    gateway: &Gateway,
    verifier: &TokenVerifier,
    token: &BearerToken,
    address: Option<Address>,
    now: Instant,
    before_wait: impl FnOnce() -> Result<(), Rejection>,
) -> Result<Verified, Refusal> {
    let mut candidate = match verifier.examine(token)? {
        Examined::Seen(principal) => return Ok(Verified { principal, check: Check::Seen }),
        Examined::Opaque => {
            before_wait().map_err(Refusal::Limited)?;
            return counted(gateway, address, now, verifier.introspect(token)).await;
        }
        Examined::New(candidate) => candidate,
    };
    if !candidate.has_key() {
        before_wait().map_err(Refusal::Limited)?;
    }
    verifier.find_key(&mut candidate).await?;
    if candidate.has_expired() {
        // It is rejected anyway. Whether the client is told that it has expired depends on its signature.
        gateway.limiter.may_check(address, now).map_err(|_| TokenError::from(InvalidReason::Expiry))?;
        return Ok(verifier.accept(*candidate)?);
    }
    counted(gateway, address, now, async { verifier.accept(*candidate) }).await
}

/// Makes a check that costs much. It counts against the limits of the address.
async fn counted(
    gateway: &Gateway,
    address: Option<Address>,
    now: Instant,
    check: impl Future<Output = Result<Verified, TokenError>>,
) -> Result<Verified, Refusal> {
    let limited = gateway.limiter.may_verify(address, now);
    limited.map_err(|limited| Refusal::Limited(Rejection::limited(limited, &gateway.metrics)))?;
    let verified = check.await;
    if matches!(verified, Err(TokenError::Invalid(_))) {
        gateway.limiter.bad_token(address, now);
    }
    Ok(verified?)
}

/// The caller of `decide` for a waiting request, after a reload or when a decision has run out. It is not counted again.
pub(super) struct WaitingCaller<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) record: &'a mut Record,
}

/// How long the second verification of a token may take.
const REVERIFY: Duration = Duration::from_secs(1);

impl Caller for WaitingCaller<'_> {
    /// Verifies the token again only if its issuer is gone or has changed.
    async fn authenticate(
        &mut self,
        rules: &Rules,
        head: &RequestHead<'_>,
        _has_public: bool,
    ) -> Result<Option<Arc<Principal>>, Rejection> {
        if self.principal.as_ref().is_none_or(|principal| rules.verifier.knows(principal)) {
            return Ok(self.principal.clone());
        }
        // Bounded, because the keys may have to be fetched first, and the token may no longer be valid. The request has
        // its place already.
        let counted = || Ok(());
        let verified = authenticate(self.gateway, rules, head, None, false, self.record, counted);
        timeout(REVERIFY, verified).await.unwrap_or(Err(Rejection::KeysUnavailable(REVERIFY)))
    }

    fn consulted(&mut self, consulted: &[Consulted]) {
        self.record.consulted(consulted);
    }

    fn ruled(&mut self, rule: &RuleId, upstream: Option<&UpstreamName>) {
        self.record.ruled(rule, upstream);
    }
}
