//! The allow-list in docs/expressions.md is the one of the code.

use std::collections::BTreeSet;

use super::super::admit::{FUNCTIONS, TYPES};
use super::{parse, printed, rejected};

const PAGE: &str = include_str!("../../../docs/expressions.md");

/// Returns the first cells and the examples of the table with this first column.
fn rows(heading: &str) -> Vec<(&'static str, &'static str)> {
    let (_, table) = PAGE.split_once(&format!("| {heading} | example |\n|---|---|\n")).unwrap();
    let rows = table.lines().map_while(|line| line.strip_prefix("| ")?.strip_suffix("` |"));
    rows.map(|row| row.split_once(" | `").unwrap()).collect()
}

#[test]
fn documented_filters_are_allowed_and_the_others_rejected() {
    let (allowed, forbidden) = (rows("allowed"), rows("not allowed"));
    assert!(allowed.len() > 10 && forbidden.len() > 5, "{allowed:?} {forbidden:?}");
    allowed.iter().for_each(|(_, example)| assert!(parse(example).is_ok(), "{example}: {:?}", parse(example)));
    forbidden.iter().for_each(|(_, example)| assert!(!rejected(example).is_empty()));
    // Each word and operator of a first cell is one that a filter may have.
    let named: BTreeSet<_> = allowed.iter().flat_map(|(cell, _)| cell.split('`').skip(1).step_by(2)).collect();
    for operator in ["=", "<>", "<", "<=", ">", ">="] {
        assert!(named.contains(operator) && printed(&format!("id {operator} 1")).contains(operator), "{operator}");
    }
    for operator in ["@>", "<@", "&&"] {
        assert!(named.contains(operator) && printed(&format!("tags {operator} $3")).contains(operator), "{operator}");
    }
    assert!(FUNCTIONS.iter().all(|function| named.contains(function)), "{named:?}");
}

#[test]
fn documented_types_are_those_of_casts() {
    let (_, list) = PAGE.split_once("The types of a cast are ").unwrap();
    let list = list.split("also as arrays").next().unwrap();
    let documented: BTreeSet<_> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(documented, TYPES.iter().map(|(_, name)| *name).collect());
}
