//! The `shape` claim of a verified token, and the request that must repeat it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::definition::{Definition, Log, Repeated};
use super::protocol::ProtocolParam;
use super::upstream_name::UpstreamName;
use super::{ParameterError, SHAPE_PATH, ShapeRequest};

/// The one shape that a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeClaim {
    definition: Definition,
    rule: Option<String>,
    upstream: UpstreamName,
}

/// What a `shape` claim in an issuer's tokens means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeClaims {
    /// A token with one is for that shape alone, and no rule is asked: the issuer has decided.
    Honoured,
    /// Nothing: it is a claim like any other.
    Ignored,
    /// The issuer is the gatekeeper here: every token has one, and the rule it was minted under must still stand.
    Own,
}

/// A `shape` claim that says nothing, or something that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shape claim is malformed")]
pub struct Malformed;

impl ShapeClaim {
    /// The claim beside it that names the upstream which its rule picked; absent for the default one.
    pub(crate) const UPSTREAM: &str = "upstream";

    /// Reads the claim of a token of an issuer whose shape claims are treated so.
    ///
    /// # Errors
    /// [`Malformed`] where the issuer's tokens may or must carry a claim, and it is not one.
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

    /// What the token is for.
    pub const fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The fingerprint of the rule it was minted under; `None` where another issuer signed it.
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// Where the rule said that its rows are; the default one where another issuer signed it.
    pub const fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// Whether a request asks for exactly this shape.
    pub fn is_repeated_by(&self, request: &ScopedRequest) -> bool {
        request.definition.as_ref() == Some(&self.definition)
    }
}

/// A GET with a shape token: its definition, and the rest.
#[derive(Debug)]
pub struct ScopedRequest {
    /// `None` where the request has no single reading as one.
    definition: Option<Definition>,
    protocol: ShapeRequest,
}

impl ScopedRequest {
    /// Parses the query of a request to the shape path (`path` is `None`), the only one such tokens are for, or to a
    /// rule's own path.
    ///
    /// # Errors
    /// As [`ShapeRequest::parse`], for everything but the definition, which is [compared](ShapeClaim::is_repeated_by).
    pub fn parse(path: Option<&str>, query: &str) -> Result<Self, Vec<ParameterError>> {
        let (repeated, rest) = Repeated::split(query);
        // The table stands in the definition, so nothing else names the shape.
        let protocol = ShapeRequest::parse(Some(SHAPE_PATH), &rest, &HashSet::new())?;
        let log = Log::of(protocol.protocol(ProtocolParam::Log));
        let definition = log.filter(|_| path.is_none()).and_then(|log| repeated.definition(log));
        Ok(Self { definition, protocol })
    }

    /// The point of the log that is asked for, and all else that does not define the shape: once it was compared.
    pub fn into_protocol(self) -> ShapeRequest {
        self.protocol
    }
}
