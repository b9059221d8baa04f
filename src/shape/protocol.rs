//! Classifies Electric's parameters: which a client may send, and which only the policy may set (docs/electric.md,
//! "Parameters").

use super::columns::Columns;

/// A protocol parameter that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolParam {
    /// `cache-buster`: changes the key in HTTP caches; not sent to Electric, which ignores it.
    CacheBuster,
    /// `columns`: the rule sets them; a client may repeat them, or name fewer.
    Columns,
    /// `cursor`: the client's last `electric-cursor`, which decides its next one; not sent to Electric.
    Cursor,
    /// `expired_handle`: the handle that a 409 has invalidated; not sent to Electric, which ignores it.
    ExpiredHandle,
    /// `handle`: the shape's handle; required unless the offset is `-1` or `now`.
    Handle,
    /// `live`: `true` waits for the next change.
    Live,
    /// `live_sse`: `true` streams changes as server-sent events. Its old name is `experimental_live_sse`.
    LiveSse,
    /// `log`: `full` or `changes_only`.
    Log,
    /// `offset`: `-1`, `now` or a position in the log.
    Offset,
    /// `replica`: the rule sets it; a client may repeat the rule's value.
    Replica,
}

impl ProtocolParam {
    /// The parameter's name; its case matters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CacheBuster => "cache-buster",
            Self::Columns => "columns",
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

    /// Checks a value. The error is a message to the client.
    pub(super) fn check(self, value: &str) -> Result<(), &'static str> {
        let (good, problem) = match self {
            Self::CacheBuster | Self::Cursor | Self::ExpiredHandle | Self::Handle => {
                (is_opaque(value), "has invalid format: up to 128 letters, digits, - _ . : ~")
            }
            Self::Columns => {
                (Columns::parse(value).is_some(), "must be different names of columns, separated by commas")
            }
            Self::Live | Self::LiveSse => (matches!(value, "true" | "false"), "must be true or false"),
            Self::Log => (matches!(value, "full" | "changes_only"), "must be full or changes_only"),
            Self::Offset => (is_offset(value), "has invalid format: -1, now, or <integer>_<integer>"),
            Self::Replica => (matches!(value, "default" | "full"), "must be default or full"),
        };
        if good { Ok(()) } else { Err(problem) }
    }
}

/// The class of a parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Not a parameter of Electric; a rule may read it.
    Custom,
    /// Reserved unless the rule lets clients set it. Spelled exactly.
    Openable(Openable),
    /// A protocol parameter or `table` in another spelling (`OFFSET`, `table[]`).
    Misspelt,
    /// A protocol parameter, spelled exactly.
    Protocol(ProtocolParam),
    /// Decides rows or access, so only the policy may set it, in any spelling. Holds the correct one.
    Reserved(&'static str),
}

/// A parameter with which a client narrows the rows of a rule, if the rule allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Openable {
    /// `where`: the client's own filter.
    Where,
    /// `params[n]`: a value of the client's own filter.
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

/// A field of a subset, in a body or, prefixed with `subset__`, in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubsetField {
    /// `limit`: the most rows.
    Limit,
    /// `offset`: how many rows to skip.
    Offset,
    /// `order_by`: columns and directions.
    OrderBy,
    /// `order_by_expr`: the client library's own form of `order_by`; servers ignore it.
    OrderByExpr,
    /// `params`: the values of `where`, by number.
    Params,
    /// `where`: the filter.
    Where,
    /// `where_expr`: the client library's own form of `where`; servers ignore it.
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

    /// The field's name in errors.
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

/// Parses `[n]`.
fn number(bracketed: &str) -> Option<u32> {
    parameter_number(bracketed.strip_prefix('[')?.strip_suffix(']')?)
}

/// Parses the number of a parameter: 1 to 9999, without leading zeros.
pub(crate) fn parameter_number(digits: &str) -> Option<u32> {
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && !digits.starts_with('0')).then(|| digits.parse().ok())?
}

/// Classifies a percent-decoded name. Like Electric's parser, it compares the part up to the first bracket
/// (docs/security.md, Q2).
pub fn classify(name: &str) -> Name {
    if let Some(param) = ProtocolParam::from_name(name) {
        return Name::Protocol(param);
    }
    if let Some(openable) = Openable::from_name(name) {
        return Name::Openable(openable);
    }
    let base = name.split('[').next().unwrap_or_default().trim().to_ascii_lowercase();
    if base.starts_with("subset") {
        Name::Reserved("subset")
    } else if let Some(name) = RESERVED.into_iter().find(|name| *name == base) {
        Name::Reserved(name)
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

const ALL: [ProtocolParam; 10] = [
    ProtocolParam::CacheBuster,
    ProtocolParam::Columns,
    ProtocolParam::Cursor,
    ProtocolParam::ExpiredHandle,
    ProtocolParam::Handle,
    ProtocolParam::Live,
    ProtocolParam::LiveSse,
    ProtocolParam::Log,
    ProtocolParam::Offset,
    ProtocolParam::Replica,
];

const RESERVED: [&str; 12] = [
    "api_secret",
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
    fn names_are_classified_as_electric_reads_them() {
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
            "subset",
            "subset__",
            "subset__columns",
            "subset__Where",
            "subset__params[]",
            "subset[where]",
            "Secret",
        ] {
            assert!(matches!(classify(reserved), Name::Reserved(_)), "{reserved}");
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
        for misspelt in ["Offset", "offset[]", "TABLE", "table[0]", "live ", "", "[x]", "Columns", "columns[]"] {
            assert_eq!(classify(misspelt), Name::Misspelt, "{misspelt}");
        }
    }

    #[test]
    fn values_in_another_form_are_rejected() {
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
