//! Finds what a rule's own `where` says but probably does not mean: a condition that is the same for every row, names
//! that Postgres folds, and functions that Electric does not have.

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Whitespace};

use super::admit::bare;
use super::lint::Severity;
use super::syntax;

/// A doubt about a `where`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The word that is wrong, as written; empty if it is the whole text.
    pub word: String,
}

/// Functions and words that depend on other rows, on the time or on the session. Electric rejects them with 400: none is
/// in its list of functions (`known_functions.ex` in electric-sql/electric, 1.7), nor can a `where` have an aggregation or
/// a word without brackets (`parser.ex`: "is not supported in this context"). A name that is not here may be known to a
/// later version.
const REFUSED: [&str; 28] = [
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "clock_timestamp",
    "count",
    "current_date",
    "current_role",
    "current_setting",
    "current_time",
    "current_timestamp",
    "current_user",
    "gen_random_uuid",
    "json_agg",
    "jsonb_agg",
    "localtime",
    "localtimestamp",
    "max",
    "min",
    "nextval",
    "now",
    "random",
    "row_number",
    "session_user",
    "statement_timestamp",
    "string_agg",
    "sum",
    "transaction_timestamp",
];

/// Those of them that tell the time.
const TIMES: [&str; 9] = [
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "now",
    "statement_timestamp",
    "transaction_timestamp",
];

/// Those of them that are written without brackets.
const WITHOUT_BRACKETS: [&str; 8] = [
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
];

/// Checks the SQL of a rule, in which values are written as `$n`.
pub fn doubts(sql: &str) -> Vec<Doubt> {
    let Ok(tokens) = syntax::tokens(sql) else { return Vec::new() };
    let mut doubts = words(&tokens);
    if let Some(value) = syntax::rule(tokens).ok().and_then(|expr| constant(&expr)) {
        doubts.push(same_for_every_row(value));
    }
    doubts
}

fn same_for_every_row(value: bool) -> Doubt {
    let (severity, message, help) = if value {
        (Severity::Error, "is true for every row", r#"write where = "none" if every row is meant"#)
    } else {
        (Severity::Warning, "is false for every row", "remove the rule if no rows are meant")
    };
    Doubt { severity, message: message.to_owned(), help: help.to_owned(), word: String::new() }
}

/// Checks each word without quotes.
fn words(tokens: &[Token]) -> Vec<Doubt> {
    let tokens: Vec<_> = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab)))
        .collect();
    let mut doubts: Vec<Doubt> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let (before, after) = (at.checked_sub(1).map(|at| tokens[at]), tokens.get(at + 1).copied());
        let is_type = before == Some(&Token::DoubleColon);
        if word.quote_style.is_some() || is_type {
            continue;
        }
        let doubt = doubt(&word.value, word.keyword, after == Some(&Token::LParen));
        doubts.extend(doubt.filter(|doubt| !doubts.contains(doubt)));
    }
    doubts
}

fn doubt(word: &str, keyword: Keyword, is_call: bool) -> Option<Doubt> {
    let name = word.to_ascii_lowercase();
    let refused = REFUSED.contains(&name.as_str()) && (is_call || WITHOUT_BRACKETS.contains(&name.as_str()));
    if refused {
        return Some(Doubt {
            severity: Severity::Error,
            message: format!(
                "Electric has no `{name}`: whether a row is sent depends only on the row and on the values"
            ),
            help: if TIMES.contains(&name.as_str()) {
                "compare the time in `allow`, as `now`".to_owned()
            } else {
                "compare a column, or a claim as in {{ claims.sub }}".to_owned()
            },
            word: word.to_owned(),
        });
    }
    let mixed = word.contains(|c: char| c.is_ascii_lowercase()) && word.contains(|c: char| c.is_ascii_uppercase());
    (mixed && keyword == Keyword::NoKeyword && !is_call).then(|| Doubt {
        severity: Severity::Warning,
        message: format!("without quotes, Postgres reads {word} as {name}"),
        help: format!("write \"{word}\" if the column has capitals, otherwise {name}"),
        word: word.to_owned(),
    })
}

/// Returns the value of a condition that has the same for every row, apart from null.
fn constant(expr: &Expr) -> Option<bool> {
    match bare(expr) {
        Expr::Value(value) => match &value.value {
            Value::Boolean(value) => Some(*value),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => constant(expr).map(|value| !value),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => match (constant(left), constant(right)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (left, right) => Some(left? && right?),
        },
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => match (constant(left), constant(right)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (left, right) => Some(left? || right?),
        },
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => same(bare(left), bare(right)),
        Expr::BinaryOp { left, op: BinaryOperator::NotEq, right } => same(bare(left), bare(right)).map(|same| !same),
        _ => None,
    }
}

/// Whether two expressions are equal for every row, if the text says so.
fn same(left: &Expr, right: &Expr) -> Option<bool> {
    match (left, right) {
        (Expr::Identifier(left), Expr::Identifier(right)) if left.value == right.value => Some(true),
        (Expr::Value(left), Expr::Value(right)) => match (&left.value, &right.value) {
            (Value::Number(left, _), Value::Number(right, _)) => Some(left == right),
            (Value::SingleQuotedString(left), Value::SingleQuotedString(right)) => Some(left == right),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(sql: &str) -> Vec<String> {
        doubts(sql)
            .into_iter()
            .map(|doubt| format!("{:?}: {}: {}", doubt.severity, doubt.message, doubt.help))
            .collect()
    }

    #[test]
    fn conditions_that_are_the_same_for_every_row_are_found() {
        for sql in ["true", "1 = 1", "'a' = 'a'", "id = id", "(NOT false)", "\"a\" = $1 OR 1 = 1", "1 <> 2"] {
            assert!(matches!(&messages(sql)[..], [one] if one.starts_with("Error: is true for every row")), "{sql}");
        }
        for sql in ["false", "1 = 0", "\"a\" = $1 AND 1 = 2", "NOT true"] {
            assert!(matches!(&messages(sql)[..], [one] if one.starts_with("Warning: is false for every row")), "{sql}");
        }
        for sql in ["\"a\" = $1", "a = b", "a = 1 AND true", "$1 = $1", "a = 1 OR false", "1 = '1'", "a IS NULL"] {
            assert_eq!(messages(sql), Vec::<String>::new(), "{sql}");
        }
    }

    #[test]
    fn folded_names_and_missing_functions_are_found() {
        for (sql, start) in [
            ("organizationId = $1", "Warning: without quotes, Postgres reads organizationId as organizationid"),
            ("a = $1 AND count(*) > 3", "Error: Electric has no `count`"),
            ("a < NOW()", "Error: Electric has no `now`"),
            ("a < current_timestamp", "Error: Electric has no `current_timestamp`"),
        ] {
            assert!(matches!(&messages(sql)[..], [one] if one.starts_with(start)), "{sql}: {:?}", messages(sql));
        }
        for sql in [
            "\"organizationId\" = $1",
            "STATUS = $1",
            "count = 1",
            "now = $1",
            "Lower(a) = $1",
            "a::Text = $1",
            "a In ($1)",
        ] {
            assert_eq!(messages(sql), Vec::<String>::new(), "{sql}");
        }
    }
}
