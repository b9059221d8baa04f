//! Properties that hold for every text.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{generate, params};
use crate::filter::{ClientFilter, OrderBy};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn printed_filters_parse_and_print_the_same(text in generate::condition(), offset in 0_usize..3) {
        let filter = ClientFilter::parse(&text, &params(), None).unwrap();
        let (printed, values) = filter.render(offset);
        let numbers = (1_u32..).skip(offset);
        let again = ClientFilter::parse(&printed, &numbers.zip(values).collect(), None).unwrap();
        prop_assert_eq!(again.render(offset), filter.render(offset));
        prop_assert_eq!(again, filter);
    }

    #[test]
    fn no_text_panics_and_accepted_filters_are_closed(text in "\\PC{0,40}|[-a-z0-9 '\"$()\\[\\],.;:=<>@&*/\\\\\\x00]{0,60}") {
        let _ = OrderBy::parse(&text, None);
        if let Ok(filter) = ClientFilter::parse(&text, &params(), None) {
            prop_assert!(is_closed(&filter.render(0).0), "{}", filter.render(0).0);
        }
    }

    #[test]
    fn no_sequence_of_sql_words_panics(words in prop::collection::vec(prop::sample::select(WORDS), 0..24)) {
        let text = words.join(" ");
        let _ = OrderBy::parse(&text, None);
        if let Ok(filter) = ClientFilter::parse(&text, &params(), None) {
            let (printed, values) = filter.render(0);
            prop_assert!(is_closed(&printed), "{}", printed);
            let values: BTreeMap<_, _> = (1..).zip(values).collect();
            prop_assert_eq!(ClientFilter::parse(&printed, &values, None), Ok(filter));
        }
    }
}

const WORDS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    "--",
    "/*",
    "*/",
    "'",
    "\"",
    "''",
    "$1",
    "$2",
    "$$",
    "?",
    "=",
    "<>",
    "<",
    "@>",
    "&&",
    "::",
    "text",
    "uuid",
    "int4[]",
    "id",
    "name",
    "\"a\"",
    "'x'",
    "'\\'",
    "1",
    "-",
    "+",
    "*",
    ".",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "ESCAPE",
    "BETWEEN",
    "IS",
    "NULL",
    "TRUE",
    "ANY",
    "ALL",
    "ARRAY",
    "SELECT",
    "FROM",
    "EXISTS",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "UNION",
    "LIMIT",
    "lower",
    "upper",
    "CAST",
    "AS",
    "E'x'",
    "N'x'",
    "U&'x'",
    "INTERVAL",
    "DATE",
    "COLLATE",
    "AT TIME ZONE",
    "VALUES",
    "ROW",
    "OVER",
    "FILTER",
    "DISTINCT",
    "{",
    "}",
    "#",
    "\\",
    "\0",
];

/// Whether one pair of parentheses encloses all of the SQL and every quote is closed, by a minimal check.
fn is_closed(sql: &str) -> bool {
    let (mut depth, mut quote) = (0_i32, None);
    for (at, c) in sql.char_indices() {
        match (quote, c) {
            (Some(open), _) => quote = (c != open).then_some(open),
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ';' | '\\' | '\0' | '/' | '*' | '#') => return false,
            (None, _) if sql[at..].starts_with("--") => return false,
            (None, _) => {}
        }
        if depth == 0 && at + 1 < sql.len() {
            return false;
        }
    }
    depth == 0 && quote.is_none()
}
