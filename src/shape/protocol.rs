//! Electric's parameters: those that pass, and those that only the policy may set (docs/electric.md, "Parameters").

/// A protocol parameter that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolParam {
    /// Ignored by Electric; it exists to change a cache's key.
    CacheBuster,
    /// Opaque; decides the next `electric-cursor`.
    Cursor,
    /// Ignored by Electric; it exists to change a cache's key after a 409.
    ExpiredHandle,
    /// The shape's handle; required once there is an offset.
    Handle,
    /// `true` waits for the next change.
    Live,
    /// `true` streams changes as server-sent events; `experimental_live_sse` is its old name.
    LiveSse,
    /// `full` or `changes_only`.
    Log,
    /// `-1`, `now` or a place in the log.
    Offset,
    /// Set by the rule; a client may repeat what the rule says.
    Replica,
}

impl ProtocolParam {
    /// The name, exact in case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CacheBuster => "cache-buster",
            Self::Cursor => "cursor",
            Self::ExpiredHandle => "expired_handle",
            Self::Handle => "handle",
            Self::Live => "live",
            Self::LiveSse => "live_sse",
            Self::Log => "log",
            Self::Offset => "offset",
            Self::Replica => "replica",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        if name == "experimental_live_sse" {
            return Some(Self::LiveSse);
        }
        ALL.into_iter().find(|param| param.as_str() == name)
    }

    /// What is wrong with a value, in words for the client.
    pub(super) fn check(self, value: &str) -> Result<(), &'static str> {
        let (good, problem) = match self {
            Self::CacheBuster | Self::Cursor | Self::ExpiredHandle | Self::Handle => {
                (is_opaque(value), "has invalid format: up to 128 letters, digits, - _ . : ~")
            }
            Self::Live | Self::LiveSse => (matches!(value, "true" | "false"), "must be true or false"),
            Self::Log => (matches!(value, "full" | "changes_only"), "must be full or changes_only"),
            Self::Offset => (is_offset(value), "has invalid format: -1, now, or <integer>_<integer>"),
            Self::Replica => (matches!(value, "default" | "full"), "must be default or full"),
        };
        if good { Ok(()) } else { Err(problem) }
    }
}

/// What a parameter's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// None of Electric's: a rule may read it.
    Custom,
    /// Reserved, unless the rule opens it; exact.
    Openable(Openable),
    /// One of ours or Electric's in another spelling (`OFFSET`, `table[]`).
    Misspelt,
    /// A protocol parameter, exact.
    Protocol(ProtocolParam),
    /// Decides rows or access: only the policy may set it, whatever the spelling.
    Reserved,
}

/// A parameter that narrows what the rule gives, where the rule lets a client do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Openable {
    /// `where`: the client's own filter.
    Where,
    /// `params[n]`: a value of that filter.
    Param(u32),
    /// `subset__…`: a field of a subset.
    Subset(SubsetField),
    /// `subset__params[n]`: a value of the subset's filter.
    SubsetParam(u32),
}

impl Openable {
    fn from_name(name: &str) -> Option<Self> {
        if name == "where" {
            return Some(Self::Where);
        }
        let Some(field) = name.strip_prefix("subset__") else {
            return number(name.strip_prefix("params")?).map(Self::Param);
        };
        SubsetField::from_name(field)
            .map(Self::Subset)
            .or_else(|| number(field.strip_prefix("params")?).map(Self::SubsetParam))
    }
}

/// A field of a subset, in a body or, behind `subset__`, in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubsetField {
    /// How many rows at most.
    Limit,
    /// How many rows to leave out first.
    Offset,
    /// Columns and directions.
    OrderBy,
    /// The client's own form of `order_by`, which no server reads.
    OrderByExpr,
    /// The values of `where`, by number.
    Params,
    /// The filter.
    Where,
    /// The client's own form of `where`, which no server reads.
    WhereExpr,
}

impl SubsetField {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "limit" => Self::Limit,
            "offset" => Self::Offset,
            "order_by" => Self::OrderBy,
            "order_by_expr" => Self::OrderByExpr,
            "params" => Self::Params,
            "where" => Self::Where,
            "where_expr" => Self::WhereExpr,
            _ => return None,
        })
    }

    /// The field as errors name it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "subset.limit",
            Self::Offset => "subset.offset",
            Self::OrderBy => "subset.order_by",
            Self::OrderByExpr => "subset.order_by_expr",
            Self::Params => "subset.params",
            Self::Where => "subset.where",
            Self::WhereExpr => "subset.where_expr",
        }
    }
}

/// `[n]`, in the one way to write it.
fn number(bracketed: &str) -> Option<u32> {
    parameter_number(bracketed.strip_prefix('[')?.strip_suffix(']')?)
}

/// The number of a parameter, 1 to 9999, without leading zeros.
pub(crate) fn parameter_number(digits: &str) -> Option<u32> {
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && !digits.starts_with('0')).then(|| digits.parse().ok())?
}

/// Classifies a percent-decoded name as Electric's parser would read it: up to the first bracket (docs/security.md, Q2).
pub fn classify(name: &str) -> Name {
    if let Some(param) = ProtocolParam::from_name(name) {
        return Name::Protocol(param);
    }
    if let Some(openable) = Openable::from_name(name) {
        return Name::Openable(openable);
    }
    let base = name.split('[').next().unwrap_or_default().trim().to_ascii_lowercase();
    if base.starts_with("subset") || RESERVED.contains(&base.as_str()) {
        Name::Reserved
    } else if base == "table" || base.is_empty() || ProtocolParam::from_name(&base).is_some() {
        Name::Misspelt
    } else {
        Name::Custom
    }
}

fn is_opaque(value: &str) -> bool {
    value.len() <= 128 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:~".contains(&b))
}

fn is_offset(value: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    matches!(value, "-1" | "now")
        || value.split_once('_').is_some_and(|(tx, op)| digits(tx) && (digits(op) || (tx == "0" && op == "inf")))
}

const ALL: [ProtocolParam; 9] = [
    ProtocolParam::CacheBuster,
    ProtocolParam::Cursor,
    ProtocolParam::ExpiredHandle,
    ProtocolParam::Handle,
    ProtocolParam::Live,
    ProtocolParam::LiveSse,
    ProtocolParam::Log,
    ProtocolParam::Offset,
    ProtocolParam::Replica,
];

const RESERVED: [&str; 13] = [
    "api_secret",
    "columns",
    "experimental_compaction",
    "limit",
    "order_by",
    "order_by_expr",
    "params",
    "queryable_columns",
    "secret",
    "shape_definition",
    "source_id",
    "where",
    "where_expr",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_seen_as_electric_sees_them() {
        assert_eq!(classify("offset"), Name::Protocol(ProtocolParam::Offset));
        assert_eq!(classify("experimental_live_sse"), Name::Protocol(ProtocolParam::LiveSse));
        for custom in ["organizationId", "tables", "wherever", "x[where]", "param", "cache_buster"] {
            assert_eq!(classify(custom), Name::Custom, "{custom}");
        }
        for reserved in [
            "WHERE",
            " where",
            "where[]",
            "params",
            "params[0]",
            "params[01]",
            "params[+1]",
            "params[1][2]",
            "Columns[]",
            "subset",
            "subset__",
            "subset__columns",
            "subset__Where",
            "subset__params[]",
            "subset[where]",
            "Secret",
        ] {
            assert_eq!(classify(reserved), Name::Reserved, "{reserved}");
        }
        for (name, openable) in [
            ("where", Openable::Where),
            ("params[1]", Openable::Param(1)),
            ("params[9999]", Openable::Param(9999)),
            ("subset__where", Openable::Subset(SubsetField::Where)),
            ("subset__order_by_expr", Openable::Subset(SubsetField::OrderByExpr)),
            ("subset__params", Openable::Subset(SubsetField::Params)),
            ("subset__params[2]", Openable::SubsetParam(2)),
        ] {
            assert_eq!(classify(name), Name::Openable(openable), "{name}");
        }
        for misspelt in ["Offset", "offset[]", "TABLE", "table[0]", "live ", "", "[x]"] {
            assert_eq!(classify(misspelt), Name::Misspelt, "{misspelt}");
        }
    }

    #[test]
    fn values_have_one_form() {
        for offset in ["-1", "now", "0_0", "0_inf", "27750744_0"] {
            assert!(ProtocolParam::Offset.check(offset).is_ok(), "{offset}");
        }
        for offset in
            ["", "-2", "1", "_", "1_", "_1", "1_inf", "1_1_1", "+1_0", "1_-1", "١_0", "NOW", "123456789012345678901_0"]
        {
            assert!(ProtocolParam::Offset.check(offset).is_err(), "{offset}");
        }
        assert!(ProtocolParam::Live.check("true").is_ok() && ProtocolParam::Live.check("1").is_err());
        assert!(ProtocolParam::Handle.check("58405-1795225028948399").is_ok());
        assert!(ProtocolParam::Handle.check("a b").is_err() && ProtocolParam::Handle.check(&"1".repeat(129)).is_err());
    }
}
