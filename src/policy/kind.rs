//! Tells what kind of value an expression has, as far as its text says.

use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue, operators};

use super::ast::{is_named, parameter};

/// The kind of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Float,
    List,
    Map,
    Null,
    Number,
    Text,
    /// It depends on the claims.
    Unknown,
}

impl Kind {
    /// The kind in words, with its article.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Float => "a float",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Null => "null",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the value may be a boolean.
    pub(super) const fn may_be_bool(self) -> bool {
        matches!(self, Self::Bool | Self::Unknown)
    }

    /// Returns the kind of an expression's value.
    pub(super) fn of(node: &IdedExpr) -> Self {
        if matches!(&node.expr, Expr::Select(select) if select.test) {
            return Self::Bool;
        }
        if parameter(node).is_some() {
            return Self::Text;
        }
        match &node.expr {
            Expr::Literal(literal) => Self::of_literal(literal),
            Expr::Call(call) => Self::of_call(&call.func_name, &call.args),
            Expr::Comprehension(inner) => match Self::of(&inner.accu_init) {
                // `exists_one` counts and compares.
                Self::Number => Self::Bool,
                kind => kind,
            },
            Expr::List(_) => Self::List,
            Expr::Map(_) | Expr::Struct(_) => Self::Map,
            Expr::Select(select) if is_named(&select.operand, "claims") => Self::of_claim(&select.field),
            Expr::Ident(name) if name == "claims" => Self::Map,
            Expr::Ident(name) if name == "now" => Self::Number,
            Expr::Ident(_) | Expr::Select(_) | Expr::Unspecified => Self::Unknown,
        }
    }

    const fn of_literal(literal: &LiteralValue) -> Self {
        match literal {
            LiteralValue::Boolean(_) => Self::Bool,
            LiteralValue::Double(_) => Self::Float,
            LiteralValue::Int(_) | LiteralValue::UInt(_) => Self::Number,
            LiteralValue::Null => Self::Null,
            LiteralValue::String(_) => Self::Text,
            LiteralValue::Bytes(_) => Self::Unknown,
        }
    }

    fn of_call(name: &str, args: &[IdedExpr]) -> Self {
        match (name, args) {
            (operators::CONDITIONAL, [_, yes, no]) => Self::of(yes).or(Self::of(no)),
            (operators::ADD, [left, right]) => Self::of(left).or(Self::of(right)),
            (
                operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::IN
                | "bool"
                | "contains"
                | "endsWith"
                | "hasScope"
                | "matches"
                | "startsWith",
                _,
            ) => Self::Bool,
            ("int" | "uint" | "size", _) => Self::Number,
            ("double", _) => Self::Float,
            ("lowerAscii" | "string" | "trim" | "upperAscii", _) => Self::Text,
            ("split", _) => Self::List,
            _ => Self::Unknown,
        }
    }

    /// The kind of a registered claim (RFC 7519 section 4.1). `aud` may be a text or a list.
    fn of_claim(name: &str) -> Self {
        match name {
            "iss" | "jti" | "sub" => Self::Text,
            "exp" | "iat" | "nbf" => Self::Number,
            _ => Self::Unknown,
        }
    }

    /// The kind of a value that is one or the other.
    fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::Unknown }
    }
}
