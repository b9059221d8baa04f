//! Parses the `shape` claim of a verified token, and the request that must repeat it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::definition::{Definition, Log, Repeated};
use super::protocol::ProtocolParam;
use super::upstream_name::UpstreamName;
use super::{ParameterError, SHAPE_PATH, ShapeRequest};
use crate::heap;

/// The only shape that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeClaim {
    definition: Definition,
    rule: Option<String>,
    upstream: UpstreamName,
}

/// How the `shape` claims of an issuer's tokens are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeClaims {
    /// A token with the claim allows that shape only, without any rule: the issuer has decided.
    Honoured,
    /// The claim has no special meaning.
    Ignored,
    /// The issuer is our gatekeeper: every token needs the claim, and the rule it was minted under must be unchanged.
    Own,
}

/// The `shape` claim is missing or invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shape claim is malformed")]
pub struct Malformed;

impl ShapeClaim {
    /// The claim that names the upstream which the rule picked; absent for the default upstream.
    pub(crate) const UPSTREAM: &str = "upstream";

    /// The bytes that the claim takes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let own = [self.rule.as_deref(), self.upstream.named()];
        heap::texts(own.into_iter().flatten().chain(self.definition.texts()))
    }

    /// Reads the claim of a token. `treated` is the issuer's setting. `None` if the token is not a shape token.
    ///
    /// # Errors
    /// [`Malformed`] if the claim is invalid, or is missing from a token that must have it.
    pub fn read(claims: &Map<String, Value>, treated: ShapeClaims) -> Result<Option<Self>, Malformed> {
        let shape = match (treated, claims.get("shape")) {
            (ShapeClaims::Ignored, _) | (ShapeClaims::Honoured, None) => return Ok(None),
            (ShapeClaims::Own, None) => return Err(Malformed),
            (ShapeClaims::Honoured | ShapeClaims::Own, Some(shape)) => shape,
        };
        let rule = match treated {
            ShapeClaims::Own => Some(claims.get("rule").and_then(Value::as_str).ok_or(Malformed)?.to_owned()),
            ShapeClaims::Honoured | ShapeClaims::Ignored => None,
        };
        let upstream = match (treated, claims.get(Self::UPSTREAM)) {
            (ShapeClaims::Own, Some(name)) => UpstreamName::new(name.as_str().ok_or(Malformed)?),
            _ => UpstreamName::default(),
        };
        Ok(Some(Self { definition: Definition::of_claim(shape)?, rule, upstream }))
    }

    /// The definition of the shape.
    pub const fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The fingerprint of the rule that the token was minted under; `None` for another issuer's token.
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// The upstream that the rule picked; the default one for another issuer's token.
    pub const fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// Whether a request repeats exactly this shape.
    pub fn is_repeated_by(&self, request: &ScopedRequest) -> bool {
        request.definition.as_ref() == Some(&self.definition)
    }
}

/// A GET with a shape token, split into the shape's definition and the other parameters.
#[derive(Debug)]
pub struct ScopedRequest {
    /// `None` if the request has no valid and unambiguous definition.
    definition: Option<Definition>,
    protocol: ShapeRequest,
}

impl ScopedRequest {
    /// Parses the query of a request. `path` is `None` for the shape path; a rule's own path never matches a claim.
    ///
    /// # Errors
    /// As [`ShapeRequest::parse`], except for the definition's parameters. An invalid definition fails the
    /// [comparison](ShapeClaim::is_repeated_by) instead.
    pub fn parse(path: Option<&str>, query: &str) -> Result<Self, Vec<ParameterError>> {
        let (repeated, rest) = Repeated::split(query);
        // The definition already holds the table, so the rest needs none: a path as target makes it optional.
        let protocol = ShapeRequest::parse(Some(SHAPE_PATH), &rest, &HashSet::new())?;
        let log = Log::of(protocol.protocol(ProtocolParam::Log));
        let definition = log.filter(|_| path.is_none()).and_then(|log| repeated.definition(log));
        Ok(Self { definition, protocol })
    }

    /// Returns the parameters that do not define the shape, such as the offset. Compare the definition first.
    pub fn into_protocol(self) -> ShapeRequest {
        self.protocol
    }
}
