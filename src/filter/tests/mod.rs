//! Tests of the SQL that a client may send, and of the SQL that is rejected.

mod attacks;
mod documented;
pub(crate) mod generate;
mod limits;
mod lint;
mod order_by;
mod properties;

use std::collections::BTreeMap;

use super::{ClientFilter, FilterError};

/// Returns `$1` = a uuid, `$2` = a text with quotes, a comment and a semicolon, `$3` = an array, `$4` = a pattern, `$5`
/// = a pattern that ends in a lone backslash, `$6` = a pattern that ends in an escaped one.
pub(crate) fn params() -> BTreeMap<u32, String> {
    let values = ["6b1c0a52-7d2f-4c6e-9a51-0d3f5a3f9f10", "o'x\\\" $1 -- ;", "{x,\"y z\"}", "a%n", "a\\", "a\\\\"];
    (1..).zip(values.map(str::to_owned)).collect()
}

/// Returns the columns that may be queried. The table also has `secret` and `Secret`.
fn columns() -> Vec<String> {
    ["id", "name", "done", "tags", "Owner", "we\"ird", "created_at"].map(str::to_owned).to_vec()
}

fn parse(text: &str) -> Result<ClientFilter, FilterError> {
    ClientFilter::parse(text, &params(), Some(&columns()))
}

#[track_caller]
fn printed(text: &str) -> String {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).render(0).0
}

#[track_caller]
fn rejected(text: &str) -> &'static str {
    match parse(text) {
        Ok(filter) => panic!("{text}: {filter:?}"),
        Err(error) => error.as_str(),
    }
}

#[test]
fn allowed_filters_are_printed_in_canonical_form() {
    for (text, expected) in [
        ("id = 7", r#"("id" = 7)"#),
        ("ID=7 and Name<>'O''Neil'", r#"(("id" = 7) AND ("name" <> 'O''Neil'))"#),
        (
            r#"id != -1.50 OR "Owner" = $1 OR "we""ird" < 3"#,
            r#"(("id" <> (-1.50)) OR ("Owner" = $1) OR ("we""ird" < 3))"#,
        ),
        ("(((done)))", r#"("done")"#),
        ("not done", r#"(NOT ("done"))"#),
        ("true", "(TRUE)"),
        ("id <= 1 AND (id >= 2 AND (id > 3 OR done))", r#"(("id" <= 1) AND ("id" >= 2) AND (("id" > 3) OR ("done")))"#),
        ("id IN (1, 2) AND name NOT IN ($2)", r#"(("id" IN (1, 2)) AND ("name" NOT IN ($1)))"#),
        ("id BETWEEN 1 AND 9", r#"("id" BETWEEN 1 AND 9)"#),
        ("id NOT BETWEEN 1 AND 9", r#"("id" NOT BETWEEN 1 AND 9)"#),
        ("name IS NULL OR name IS NOT NULL", r#"(("name" IS NULL) OR ("name" IS NOT NULL))"#),
        ("done IS NOT TRUE AND (id = 1) IS FALSE", r#"((("done") IS NOT TRUE) AND (("id" = 1) IS FALSE))"#),
        ("name LIKE 'a%' OR name NOT ILIKE $4", r#"(("name" LIKE 'a%') OR ("name" NOT ILIKE $1))"#),
        ("$1 = ANY(tags) AND id = ANY($3::int4[])", r#"(($1 = ANY ("tags")) AND ("id" = ANY ($2::int4[])))"#),
        ("id = ANY(ARRAY[1, 2])", r#"("id" = ANY (ARRAY[1, 2]))"#),
        ("tags @> ARRAY[$2::text]", r#"("tags" @> ARRAY[$1::text])"#),
        ("tags <@ $3 AND tags && '{x}'", r#"(("tags" <@ $1) AND ("tags" && '{x}'))"#),
        ("id::text = '7' AND CAST($1 AS uuid) = \"Owner\"", r#"(("id"::text = '7') AND ($1::uuid = "Owner"))"#),
        ("lower(name) = UPPER($2)", r#"(lower("name") = upper($1))"#),
        ("created_at > $2::timestamp with time zone\n\tAND done", r#"(("created_at" > $1::timestamptz) AND ("done"))"#),
        ("name = '\u{1f980} -- /* ; $1 ''x'''", "(\"name\" = '\u{1f980} -- /* ; $1 ''x''')"),
    ] {
        assert_eq!(printed(text), expected, "{text}");
    }
}

#[test]
fn parameters_are_numbered_by_first_use_after_those_of_the_rule() {
    let filter = parse("name = $2 AND (\"Owner\" = $1 OR name = $2)").unwrap();
    let given = params();
    let (sql, values) = filter.render(3);
    assert_eq!(sql, r#"(("name" = $4) AND (("Owner" = $5) OR ("name" = $4)))"#);
    assert_eq!(values, [given[&2].clone(), given[&1].clone()]);
    let (sql, values) = filter.and_with(Some("\"org\" = $1"), vec!["org-1".to_owned()]);
    assert_eq!(sql, r#"("org" = $1) AND (("name" = $2) AND (("Owner" = $3) OR ("name" = $2)))"#);
    assert_eq!(values, ["org-1", &given[&2], &given[&1]]);
    let (sql, values) = parse("done").unwrap().and_with(None, Vec::new());
    assert_eq!((sql.as_str(), values.len()), (r#"("done")"#, 0));
}

#[test]
fn equivalent_texts_give_equal_filters() {
    let given = BTreeMap::from([(1, "a".to_owned()), (7, "a".to_owned())]);
    let parse = |text| ClientFilter::parse(text, &given, None).unwrap();
    assert_eq!(parse("name = $1 and (id=1 AND done)"), parse("((NAME=$7) AND \"id\" = 1) and DONE"));
    assert_ne!(parse("name = $1"), parse("\"Name\" = $1"));
}
