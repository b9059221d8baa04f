//! The part of SQL that `where` and `order_by` need: parsed, checked against the columns, evaluated in memory.

mod check;
#[cfg(test)]
mod client_filter;
mod eval;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::database::Row;
use check::Checker;
use parser::Parser;

/// Why a text is not a condition on these columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SqlError {
    /// Electric answers 400 with this message.
    Invalid(String),
    /// Electric fails with 500, as on a UNION.
    Crash,
}

impl SqlError {
    fn at(location: usize, message: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("At location {location}: {message}"))
    }
}

/// A type, as far as comparisons need it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Bool,
    Number,
    Uuid,
    Text,
    Array(Box<Self>),
    /// A quoted literal, a parameter or NULL: takes the type of the other operand.
    Unknown,
}

impl Kind {
    /// Returns the kind of a Postgres type. Unknown types compare as text.
    pub(super) fn of(pg_type: &str) -> Self {
        if let Some(element) = pg_type.strip_suffix("[]") {
            return Self::Array(Box::new(Self::of(element)));
        }
        match pg_type {
            "bool" | "boolean" => Self::Bool,
            "int2" | "int4" | "int8" | "smallint" | "int" | "integer" | "bigint" => Self::Number,
            "float4" | "float8" | "numeric" | "decimal" | "real" => Self::Number,
            "uuid" => Self::Uuid,
            _ => Self::Text,
        }
    }
}

/// A value during evaluation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Self>),
}

/// The columns and parameters that a condition may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) columns: BTreeMap<String, Kind>,
    pub(super) params: BTreeMap<u32, String>,
}

/// An expression. The numbers are positions in the text, for error messages.
#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Literal(Value, Kind),
    Column(String, Kind),
    Array(Vec<Self>),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Compare(Box<Self>, Operator, Box<Self>),
    In(Box<Self>, Vec<Self>),
    Any(Box<Self>, Operator, Box<Self>),
    Contains(Box<Self>, Box<Self>),
    IsNull(Box<Self>),
    Fold { inner: Box<Self>, upper: bool },
    Like { value: Box<Self>, pattern: Box<Self>, ignore_case: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    const fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A checked boolean condition on one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition(Expr);

impl Condition {
    /// Parses `text` and checks it against `scope`.
    pub(super) fn parse(text: &str, scope: &Scope) -> Result<Self, SqlError> {
        let parsed = Parser::new(visible(text))?.condition()?;
        Ok(Self(Checker::new(scope).condition(parsed)?))
    }

    /// Whether a row matches. NULL means no.
    pub(super) fn holds(&self, row: &Row) -> bool {
        eval::evaluate(&self.0, row) == Value::Bool(true)
    }

    /// Returns the same text for all texts that mean the same tree: without comments, spaces and parentheses.
    pub(super) fn canonical(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// One term of an `order_by`.
#[derive(Clone, Debug)]
struct Term {
    column: String,
    kind: Kind,
    descending: bool,
    nulls_first: bool,
}

/// A checked `order_by`.
#[derive(Clone, Debug)]
pub(super) struct OrderBy(Vec<Term>);

impl OrderBy {
    /// Parses `text` and checks it against `scope`.
    pub(super) fn parse(text: &str, scope: &Scope) -> Result<Self, SqlError> {
        let mut terms = Vec::new();
        for term in Parser::new(visible(text))?.order_by()? {
            let kind = scope
                .columns
                .get(&term.column)
                .cloned()
                .ok_or_else(|| SqlError::at(term.location, format!("unknown reference {}", term.column)))?;
            terms.push(Term { column: term.column, kind, descending: term.descending, nulls_first: term.nulls_first });
        }
        Ok(Self(terms))
    }

    /// Compares two rows.
    pub(super) fn compare(&self, left: &Row, right: &Row) -> Ordering {
        let orders = self.0.iter().map(|term| term.compare(left, right));
        orders.fold(Ordering::Equal, Ordering::then)
    }
}

impl Term {
    fn compare(&self, left: &Row, right: &Row) -> Ordering {
        let value = |row: &Row| eval::column(&self.column, &self.kind, row);
        match (value(left), value(right)) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) if self.nulls_first => Ordering::Less,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) if self.nulls_first => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            (left, right) => {
                let order = eval::order(&left, &right).unwrap_or(Ordering::Equal);
                if self.descending { order.reverse() } else { order }
            }
        }
    }
}

/// Returns the part of a text that Postgres's parser sees: a C string, which ends at the first NUL.
pub(super) fn visible(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}
