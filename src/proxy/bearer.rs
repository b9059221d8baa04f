//! Who a request is from, and whether that still holds while it waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::decide::Caller;
use super::gateway::Gateway;
use super::head::RequestHead;
use super::rules::Rules;
use crate::auth::{BearerError, BearerToken, Principal, TokenError, TokenVerifier};
use crate::clock::UnixTime;
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
    /// Where it comes from, if addresses tell clients apart.
    address: Option<Address>,
    /// The body it sent.
    posted: Option<Box<SubsetQuery>>,
    /// Held for as long as the request is answered.
    _place: Option<Place>,
}

impl Bearer {
    pub(super) const fn new(
        principal: Option<Arc<Principal>>,
        address: Option<Address>,
        posted: Option<Box<SubsetQuery>>,
        place: Option<Place>,
    ) -> Self {
        Self { principal, address, posted, _place: place }
    }

    /// Checks that the bearer may go on: its token or its key may have ended while it waited (docs/security.md, T19, C8).
    pub(super) fn recheck(&self, verifier: &TokenVerifier) -> Result<(), Fault> {
        let Some(principal) = &self.principal else { return Ok(()) };
        verifier.recheck(principal).map_err(|error| match error {
            TokenError::Expired => Fault::TokenExpired,
            TokenError::Invalid(_) => Fault::KeyGone,
            TokenError::KeysUnavailable { retry_after } => Fault::KeysUnavailable(retry_after),
        })
    }

    /// Waits until the token ends, and returns why.
    pub(super) async fn end(&self, gateway: &Gateway, verifier: &TokenVerifier) -> Fault {
        loop {
            match self.time_left(gateway.clock.now()) {
                Some(left) if left < LONGEST_WAIT => sleep(left).await,
                // The wait is over first, and its end checks again.
                _ => std::future::pending().await,
            }
            if let Err(fault) = self.recheck(verifier) {
                return fault;
            }
        }
    }

    /// How long the token is still good, never zero; `None` if there is no token.
    fn time_left(&self, now: UnixTime) -> Option<Duration> {
        let left = self.principal.as_ref()?.expires_at().saturating_since(now);
        Some(left.max(Duration::from_millis(1)))
    }

    pub(super) const fn principal(&self) -> Option<&Arc<Principal>> {
        self.principal.as_ref()
    }

    /// Replaces the principal by one that was verified again.
    pub(super) fn renew(&mut self, principal: Option<Arc<Principal>>) {
        self.principal = principal;
    }

    pub(super) const fn address(&self) -> Option<Address> {
        self.address
    }

    pub(super) fn posted(&self) -> Option<SubsetQuery> {
        self.posted.as_deref().cloned()
    }

    /// Returns whose limits its flights count against; `None` if there is neither a token nor an address that tells
    /// clients apart. A token that was minted for no user counts against its address, or each would have limits of its
    /// own.
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

/// Longer than Electric may be silent (`upstream.read_timeout`): a timer that cannot fire costs every waiting client.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Returns the verified principal; `None` if there is no token and a public rule may apply.
pub(super) async fn authenticate(
    gateway: &Gateway,
    rules: &Rules,
    head: &RequestHead<'_>,
    address: Option<Address>,
    has_public: bool,
    record: &mut Record,
) -> Result<Option<Arc<Principal>>, Rejection> {
    let token = match BearerToken::from_headers(head.headers, rules.limits.token_bytes) {
        Ok(token) => token,
        Err(BearerError::Malformed) => return Err(Rejection::TokenInvalid),
        Err(BearerError::Missing) if has_public => return Ok(None),
        Err(BearerError::Missing) => return Err(Rejection::TokenMissing),
        Err(BearerError::TooLong) => return Err(Rejection::HeadersTooLarge),
    };
    // A token that was verified before is not affected by bad tokens from the same address.
    if let Err(limited) = gateway.limiter.may_verify(address, record.started)
        && !rules.verifier.remembers(&token)
    {
        return Err(limited.refuse(&gateway.metrics));
    }
    match rules.verifier.verify(&token).await {
        Ok(verified) => {
            gateway.metrics.token_checked(verified.check.as_str());
            record.token = Some(verified.principal.token_hash().into());
            Ok(Some(verified.principal))
        }
        Err(error) => {
            gateway.metrics.token_checked(error.as_str());
            record.token = Some(token.hash().into());
            if matches!(error, TokenError::Invalid(_)) {
                gateway.limiter.bad_token(address, record.started);
            }
            Err(refused(&error))
        }
    }
}

fn refused(error: &TokenError) -> Rejection {
    match error {
        TokenError::Expired => Rejection::TokenExpired,
        TokenError::Invalid(_) => Rejection::TokenInvalid,
        TokenError::KeysUnavailable { retry_after } => Rejection::KeysUnavailable(*retry_after),
    }
}

/// A request that waits, judged again after a reload. It keeps its place, and is not counted again.
pub(super) struct Rejudged<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) record: &'a mut Record,
}

/// How long the second verification of a token may take.
const REVERIFY: Duration = Duration::from_secs(1);

impl Caller for Rejudged<'_> {
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
        // Bounded: it may have no right to wait for keys that must be fetched first.
        let verified = timeout(REVERIFY, authenticate(self.gateway, rules, head, None, false, self.record)).await;
        verified.unwrap_or(Err(Rejection::KeysUnavailable(REVERIFY)))
    }

    fn ruled(&mut self, rule: &RuleId, upstream: Option<&UpstreamName>) {
        self.record.rule = Some(rule.clone());
        self.record.upstream = upstream.cloned();
    }
}
