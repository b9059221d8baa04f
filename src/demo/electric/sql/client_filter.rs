//! Evaluates the output of the client filter: it means what the input meant, and never adds a row to a rule's rows.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::{Condition, Kind, Row, Scope};
use crate::demo::electric::database::{Change, Column, Database, TableName};
use crate::filter::ClientFilter;
use crate::filter::tests::{generate, params};

const COLUMNS: [(&str, &str); 5] =
    [("id", "int4"), ("name", "text"), ("done", "bool"), ("tags", "text[]"), ("Owner", "uuid")];

fn scope(params: BTreeMap<u32, String>) -> Scope {
    Scope { columns: COLUMNS.iter().map(|(name, pg_type)| ((*name).to_owned(), Kind::of(pg_type))).collect(), params }
}

fn numbered(values: Vec<String>) -> BTreeMap<u32, String> {
    (1..).zip(values).collect()
}

/// Returns one row for each way in which the generated conditions tell rows apart, NULLs among them.
fn rows() -> Vec<Row> {
    let name = TableName::parse("t").unwrap();
    let mut database = Database::default();
    let columns = COLUMNS.iter().map(|(name, pg_type)| Column::new(name, pg_type));
    database.create(name.clone(), columns.chain([Column::new("k", "int4").primary_key(0)]).collect());
    let mine = params().remove(&1);
    let mut key = 0;
    for id in [Some(0), Some(7), Some(-3), None] {
        for text in [Some("ann"), Some("O'Neil"), Some("%a_"), Some(""), None] {
            key += 1;
            let (done, tags) = match key % 3 {
                0 => (json!(null), json!(null)),
                1 => (json!(true), json!("{x,\"y z\"}")),
                _ => (json!(false), json!("{ann}")),
            };
            let owner = if key % 2 == 0 { mine.clone() } else { None };
            let row = json!({"k": key, "id": id, "name": text, "done": done, "tags": tags, "Owner": owner});
            database.apply(&Change::Insert("t".to_owned(), row)).unwrap();
        }
    }
    database.table(&name).unwrap().rows().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_printed_filter_means_the_same_as_its_input(text in generate::condition()) {
        let (printed, values) = ClientFilter::parse(&text, &params(), None).unwrap().render(0);
        let original = Condition::parse(&text, &scope(params()));
        let again = Condition::parse(&printed, &scope(numbered(values)));
        prop_assert_eq!(original.is_ok(), again.is_ok(), "{} as {}: {:?} {:?}", text, printed, original, again);
        if let (Ok(original), Ok(again)) = (original, again) {
            for row in rows() {
                prop_assert_eq!(original.holds(&row), again.holds(&row), "{} as {} on {:?}", text, printed, row);
            }
        }
    }

    #[test]
    fn no_filter_adds_a_row_to_those_of_its_rule(rule in 0_usize..4, text in generate::condition()) {
        let (rule, rule_params) = [
            ("id = $1", vec!["7".to_owned()]),
            ("name = $1 OR name = $2", vec!["ann".to_owned(), "O'Neil".to_owned()]),
            ("id IN (NULL)", Vec::new()),
            ("done", Vec::new()),
        ][rule].clone();
        let (sql, values) = ClientFilter::parse(&text, &params(), None).unwrap().and_with(Some(rule), rule_params.clone());
        let rule = Condition::parse(rule, &scope(numbered(rule_params))).unwrap();
        if let Ok(both) = Condition::parse(&sql, &scope(numbered(values))) {
            for row in rows() {
                prop_assert!(rule.holds(&row) || !both.holds(&row), "{} on {:?}", sql, row);
            }
        }
    }

    /// Beyond the generator: any text that the filter accepts.
    #[test]
    fn no_accepted_text_adds_a_row(text in "(true|done|id=7|\\(|\\)| OR | AND | NOT |--|;|'|\"|\\$1|/\\*|\\*/|\\x00|1=1){0,8}") {
        if let Ok(filter) = ClientFilter::parse(&text, &params(), None) {
            let (sql, values) = filter.and_with(Some("id = $1"), vec!["0".to_owned()]);
            if let Ok(both) = Condition::parse(&sql, &scope(numbered(values))) {
                for row in rows() {
                    prop_assert!(!both.holds(&row) || row.text("id") == Some("0"), "{} on {:?}", sql, row);
                }
            }
        }
    }
}
