//! The closed list of reasons why a request is refused.

use super::Rejection;
use crate::auth::InvalidReason;
use crate::limits::Limit;
use crate::policy::Unmet;
use crate::shape::{ParameterError, RESERVED};

/// Why a request is refused, for operators: in the access log, the audit log, the metrics, `explain` and policy tests.
///
/// The client gets the coarser code of the [`Rejection`], unless `server.danger_explain_denials` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A limit of `[limits]` is reached.
    Limit(Limit),
    /// The request is malformed, or asks for something that only a rule may decide.
    Request(RequestFault),
    /// The last rule that was tried does not allow the request.
    Rule(Unmet),
    /// The response of Electric is missing, or shapegate itself is the cause.
    Service(ServiceFault),
    /// The token is invalid.
    Token(InvalidReason),
}

/// Declares an enum of reasons with their names in logs and metrics.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$about])* $variant,)* }

        impl $name {
            /// Every variant.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// What is wrong with a request, apart from its token.
    RequestFault {
        /// The body is not one JSON object with the fields of a subset, or does not arrive.
        Body = "body",
        /// The client sends `columns` that the rule does not have, or that are no list.
        ClientColumns = "client_columns",
        /// The client sends another `replica` than the rule.
        ClientReplica = "client_replica",
        /// The client sends a parameter that only a rule may set, such as `where` or `secret`.
        ClientReserved = "client_reserved",
        /// The client's own filter is invalid.
        ClientWhere = "client_where",
        /// The body has an encoding, or its type is not JSON.
        ContentType = "content_type",
        /// The request has a body but must not, or its body is too long.
        ContentTooLarge = "content_too_large",
        /// The request has `Expect`.
        Expect = "expect",
        /// The headers are too many or too long.
        HeadersTooLarge = "headers_too_large",
        /// `Host` is not one host with an optional port.
        Host = "host",
        /// The path does not support the method.
        Method = "method",
        /// There is more than one `Origin`.
        Origin = "origin",
        /// A parameter is missing, malformed or repeated.
        Parameter = "parameter",
        /// Nothing is served at the path.
        PathUnknown = "path_unknown",
        /// The query is unreadable, has too many parameters, or one in another spelling than Electric's.
        Query = "query",
        /// The client's subset is invalid.
        Subset = "subset",
        /// No rule serves the table.
        TableUnknown = "table_unknown",
        /// The request target is not a path and a query.
        Target = "target",
        /// The `Authorization` header and a cookie have different tokens.
        TokenConflict = "token_conflict",
        /// The token has expired.
        TokenExpired = "expired",
        /// The `Authorization` header is not one well-formed bearer token.
        TokenMalformed = "token_malformed",
        /// There is no token.
        TokenMissing = "token_missing",
        /// The token is longer than `limits.token_bytes`.
        TokenTooLong = "token_too_long",
        /// The request target is longer than `limits.uri_bytes`.
        UriTooLong = "uri_too_long",
        /// The rule's values make the request to Electric, or the minted token, too long.
        ValuesTooLong = "values_too_long",
    }
}

reasons! {
    /// Why an allowed request gets no response of Electric.
    ServiceFault {
        /// The list of revocations or the issuer's introspection is unavailable.
        AuthUnavailable = "auth_unavailable",
        /// A decision service is down, slow, or does not answer as it should.
        DecisionUnavailable = "decision_unavailable",
        /// Electric is starting or has lost its database.
        ElectricNotReady = "electric_not_ready",
        /// Electric is at its limit of concurrent requests.
        ElectricOverloaded = "electric_overloaded",
        /// Electric rejects the request: because of the rule, a value or the secret.
        ElectricRefused = "electric_refused",
        /// Electric does not respond in time.
        ElectricTimeout = "electric_timeout",
        /// Electric is unreachable.
        ElectricUnreachable = "electric_unreachable",
        /// An internal error.
        Internal = "internal",
        /// The issuer's keys are unavailable, so that the token can be neither accepted nor rejected.
        KeysUnavailable = "keys_unavailable",
    }
}

impl Reason {
    /// The name in logs, metrics and tests. It comes from a closed list.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit(limit) => limit.as_str(),
            Self::Request(fault) => fault.as_str(),
            Self::Rule(unmet) => unmet.as_str(),
            Self::Service(fault) => fault.as_str(),
            Self::Token(reason) => reason.as_str(),
        }
    }

    /// Every reason.
    pub fn all() -> impl Iterator<Item = Self> {
        let limits = Limit::ALL.into_iter().map(Self::Limit);
        let requests = RequestFault::ALL.iter().copied().map(Self::Request);
        let rules = Unmet::ALL.into_iter().map(Self::Rule);
        let services = ServiceFault::ALL.iter().copied().map(Self::Service);
        limits.chain(requests).chain(rules).chain(services).chain(InvalidReason::ALL.into_iter().map(Self::Token))
    }

    /// The reason of a rejection: the only place that maps one to the other.
    pub(super) fn of(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::AuthUnavailable(_) => Self::Service(ServiceFault::AuthUnavailable),
            Rejection::ContentTooLarge => Self::Request(RequestFault::ContentTooLarge),
            Rejection::DecisionUnavailable(_) => Self::Service(ServiceFault::DecisionUnavailable),
            Rejection::Forbidden(unmet) => Self::Rule(*unmet),
            Rejection::HeadersTooLarge(_) => Self::Request(RequestFault::HeadersTooLarge),
            Rejection::Internal => Self::Service(ServiceFault::Internal),
            Rejection::InvalidHead(name, _) => Self::Request(of_head(name)),
            Rejection::InvalidRequest(errors) => Self::Request(of_parameters(errors)),
            Rejection::KeysUnavailable(_) => Self::Service(ServiceFault::KeysUnavailable),
            Rejection::Limited(limit, _) => Self::Limit(*limit),
            Rejection::MethodNotAllowed(_) => Self::Request(RequestFault::Method),
            Rejection::NotFound => Self::Request(RequestFault::PathUnknown),
            Rejection::NotReady(_) => Self::Service(ServiceFault::ElectricNotReady),
            Rejection::Overloaded(_) => Self::Service(ServiceFault::ElectricOverloaded),
            Rejection::ShapeNotFound => Self::Request(RequestFault::TableUnknown),
            Rejection::TokenExpired => Self::Request(RequestFault::TokenExpired),
            Rejection::TokenInvalid(reason) => Self::Token(*reason),
            Rejection::TokenMalformed => Self::Request(RequestFault::TokenMalformed),
            Rejection::TokenMissing => Self::Request(RequestFault::TokenMissing),
            Rejection::TokenTooLong => Self::Request(RequestFault::TokenTooLong),
            Rejection::UpstreamRefused(_) => Self::Service(ServiceFault::ElectricRefused),
            Rejection::UpstreamTimeout => Self::Service(ServiceFault::ElectricTimeout),
            Rejection::UpstreamUnreachable => Self::Service(ServiceFault::ElectricUnreachable),
            Rejection::UriTooLong => Self::Request(RequestFault::UriTooLong),
            Rejection::ValuesTooLong => Self::Request(RequestFault::ValuesTooLong),
        }
    }
}

fn of_head(name: &str) -> RequestFault {
    match name {
        "authorization" => RequestFault::TokenConflict,
        "content-encoding" | "content-type" => RequestFault::ContentType,
        "expect" => RequestFault::Expect,
        "host" => RequestFault::Host,
        "origin" => RequestFault::Origin,
        "target" => RequestFault::Target,
        _ => RequestFault::Body,
    }
}

/// The reason of the first error. The names are those of shapegate and Electric: a rule's own parameter cannot have one.
fn of_parameters(errors: &[ParameterError]) -> RequestFault {
    let Some(first) = errors.first() else { return RequestFault::Parameter };
    match &*first.name {
        "columns" => RequestFault::ClientColumns,
        "replica" => RequestFault::ClientReplica,
        _ if first.problem == RESERVED => RequestFault::ClientReserved,
        "body" => RequestFault::Body,
        "params" | "where" => RequestFault::ClientWhere,
        "query" => RequestFault::Query,
        name if name.starts_with("subset") => RequestFault::Subset,
        _ => RequestFault::Parameter,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_words_in_snake_case() {
        let names: Vec<_> = Reason::all().map(Reason::as_str).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn docs_list_every_reason_once() {
        let rows = include_str!("../../docs/reasons.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let cells = rows.filter_map(|row| row.split_once(" |")).map(|(cell, _)| cell.trim_end_matches('`'));
        let mut listed: Vec<_> = cells.flat_map(|cell| cell.split("`, `")).filter(|name| *name != "reason").collect();
        listed.sort_unstable();
        assert_eq!(listed, Reason::all().map(Reason::as_str).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    }
}
