//! Finds what Electric is known to reject or to evaluate slowly in a rule's own `where`, and says what to write
//! instead.
//!
//! Each finding is based on a recording or on a public thread (docs/electric.md, "Predicates Electric accepts"). SQL
//! that cannot be parsed here is a warning, since Electric may accept it.

use sqlparser::ast::{Array, BinaryOperator, DataType, Expr, Value};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use super::admit::bare;
use super::syntax;

/// A problem of a `where`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What the problem is, and what to write instead.
    pub message: &'static str,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Electric rejects the `where`, or serves other rows than it describes.
    Error,
    /// The `where` costs more than necessary, or cannot be parsed here.
    Warning,
}

/// Checks the SQL of a rule, in which values are written as `$n`.
pub fn predicate(sql: &str) -> Vec<Finding> {
    let Ok(tokens) = syntax::tokens(sql) else {
        return vec![UNKNOWN];
    };
    if let Some(finding) = clause(&tokens) {
        return vec![finding];
    }
    let Ok(expr) = syntax::rule(tokens) else {
        return vec![UNKNOWN];
    };
    let mut lint = Lint::default();
    lint.visit(&expr);
    if lint.findings.is_empty() && !narrows(&expr) {
        lint.add(UNINDEXED);
    }
    lint.findings
}

const fn error(message: &'static str) -> Finding {
    Finding { severity: Severity::Error, message }
}

const fn warning(message: &'static str) -> Finding {
    Finding { severity: Severity::Warning, message }
}

const UNKNOWN: Finding = warning("cannot be checked here: `shapegate check --probe` asks Electric");

/// tests/electric/64.
const UNION: Finding = error("Electric fails with 500 on UNION: combine conditions with OR");

/// `true LIMIT 1` selects what `true` selects (docs/electric.md, "Composing a where").
const LIMIT: Finding = error("Electric ignores LIMIT and serves every row of the condition: leave it out");

/// Replaced by a generated column in <https://github.com/superset-sh/superset/pull/4713>.
const JSON: Finding = error(
    "Electric rejects ::jsonb->> and similar operators: compare a column, for example one GENERATED ALWAYS AS (…) STORED",
);

/// <https://github.com/superset-sh/superset/pull/4687>.
const ANY_COLUMN: Finding = warning(
    r#"Postgres cannot use an index for = ANY("column"): write "column" @> ARRAY[{{ … }}::uuid], with the type of its elements"#,
);

/// <https://github.com/electric-sql/electric/issues/3488>, <https://github.com/electric-sql/electric/issues/3623>.
const ENUM: Finding =
    warning(r#"Electric may not know this type: compare an enum as text, as in "column"::text = {{ … }}"#);

/// <https://github.com/electric-sql/electric/issues/3669>.
const SUBQUERIES: Finding =
    warning("two subqueries under one OR crashed Electric 1.2 permanently: serve a separate shape for each");

/// <https://github.com/superset-sh/superset/pull/4713>.
const LIKE: Finding = warning(
    r#"Postgres cannot use an ordinary index for LIKE '%…': compare a separate column, as in "column" = {{ … }}"#,
);

/// Electric finds the shapes that a change affects by an index over such conditions (sync-service 1.4.13). It evaluates
/// all other shapes one by one.
const UNINDEXED: Finding = warning(
    r#"Electric indexes no part of this condition, so it evaluates each change to the table for each shape: begin with "column" = {{ … }} AND …"#,
);

/// Returns the finding for a clause after the condition, if there is one.
fn clause(tokens: &[Token]) -> Option<Finding> {
    let mut depth = 0_usize;
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 => match word.keyword {
                Keyword::UNION => return Some(UNION),
                Keyword::LIMIT => return Some(LIMIT),
                _ => {}
            },
            _ => {}
        }
    }
    None
}

#[derive(Default)]
struct Lint {
    findings: Vec<Finding>,
}

impl Lint {
    fn add(&mut self, finding: Finding) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn visit(&mut self, expr: &Expr) {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::Arrow | BinaryOperator::LongArrow, .. }
                if is_json(bare(left)) =>
            {
                self.add(JSON);
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } if subqueries(expr) > 1 => self.add(SUBQUERIES),
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. }
                if is_constant(bare(left)) && is_column(bare(right)) =>
            {
                self.add(ANY_COLUMN);
            }
            Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } if starts_anywhere(pattern) => self.add(LIKE),
            Expr::Cast { data_type: DataType::Custom(..), .. } => self.add(ENUM),
            _ => {}
        }
        for child in children(expr) {
            self.visit(child);
        }
    }
}

/// Returns the direct children of an expression, except those of subqueries and functions.
fn children(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::BinaryOp { left, right, .. } | Expr::AnyOp { left, right, .. } => vec![left, right],
        Expr::Nested(inner) | Expr::UnaryOp { expr: inner, .. } | Expr::Cast { expr: inner, .. } => vec![inner],
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => vec![inner],
        Expr::IsTrue(inner) | Expr::IsNotTrue(inner) | Expr::IsFalse(inner) | Expr::IsNotFalse(inner) => vec![inner],
        Expr::InSubquery { expr, .. } => vec![expr],
        Expr::InList { expr, list, .. } => list.iter().chain([&**expr]).collect(),
        Expr::Between { expr, low, high, .. } => vec![expr, low, high],
        Expr::Like { expr, pattern, .. } | Expr::ILike { expr, pattern, .. } => vec![expr, pattern],
        Expr::Array(Array { elem, .. }) => elem.iter().collect(),
        _ => Vec::new(),
    }
}

/// Whether Electric can find the rule's shapes by an index, as far as can be seen here.
fn narrows(expr: &Expr) -> bool {
    match bare(expr) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => narrows(left) || narrows(right),
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => narrows(left) && narrows(right),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let (left, right) = (bare(left), bare(right));
            (is_column(left) && is_constant(right)) || (is_constant(left) && is_column(right))
        }
        Expr::BinaryOp { op: BinaryOperator::AtArrow | BinaryOperator::ArrowAt, .. } => true,
        Expr::InList { negated, .. } | Expr::InSubquery { negated, .. } => !negated,
        Expr::AnyOp { .. } => true,
        // A constant needs no index.
        Expr::Value(_) => true,
        _ => false,
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) => true,
        Expr::Cast { expr, .. } => is_column(bare(expr)),
        _ => false,
    }
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Value(_) => true,
        Expr::Cast { expr, .. } => is_constant(bare(expr)),
        _ => false,
    }
}

/// `"metadata"::jsonb`.
fn is_json(expr: &Expr) -> bool {
    matches!(expr, Expr::Cast { data_type: DataType::JSON | DataType::JSONB, .. })
}

/// Whether a pattern, or the first part of a `||`, begins with a wildcard.
fn starts_anywhere(pattern: &Expr) -> bool {
    match bare(pattern) {
        Expr::Value(value) => matches!(&value.value, Value::SingleQuotedString(text) if text.starts_with(['%', '_'])),
        Expr::BinaryOp { left, op: BinaryOperator::StringConcat, .. } => starts_anywhere(left),
        _ => false,
    }
}

fn subqueries(expr: &Expr) -> usize {
    let own = matches!(expr, Expr::InSubquery { .. } | Expr::Exists { .. } | Expr::Subquery(_));
    usize::from(own) + children(expr).into_iter().map(subqueries).sum::<usize>()
}
