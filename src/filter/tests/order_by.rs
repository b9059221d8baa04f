//! Tests of `order_by`.

use super::columns;
use crate::filter::OrderBy;

fn parse(text: &str) -> Result<OrderBy, &'static str> {
    OrderBy::parse(text, Some(&columns())).map_err(|error| error.as_str())
}

#[test]
fn columns_are_printed_in_canonical_form() {
    for (text, expected) in [
        ("id", r#""id" ASC"#),
        ("ID desc", r#""id" DESC"#),
        (
            "\"created_at\" DESC NULLS FIRST, \"Owner\"  asc nulls last",
            r#""created_at" DESC NULLS FIRST, "Owner" ASC NULLS LAST"#,
        ),
        (r#""we""ird""#, r#""we""ird" ASC"#),
    ] {
        let order = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(order.render(), expected);
        assert_eq!(parse(expected), Ok(order));
    }
}

#[test]
fn everything_but_columns_is_rejected() {
    let terms = vec!["id"; 17].join(",");
    for attack in [
        "",
        "1",
        "id,",
        ",id",
        "id id",
        "id; DROP TABLE t",
        "id --",
        "id /* */",
        "id\0",
        "id LIMIT 1",
        "id OFFSET 1",
        "(id)",
        "(SELECT 1)",
        "id = 1",
        "pg_sleep(1)",
        "lower(name)",
        "name COLLATE \"C\"",
        "id::text",
        "-id",
        "id USING <",
        "id NULLS",
        "id DOWN",
        "id ASC DESC",
        "CASE WHEN done THEN 1 END",
        "tasks.id",
        "id.*",
        "*",
        "$1",
        "'id'",
        "id INTERPOLATE",
        "id WITH FILL",
        "secret",
        "\"secret\"",
        "owner",
        "\"id",
        "ALL",
        "id, secret",
        "id UNION SELECT 1",
        &terms,
    ] {
        assert!(parse(attack).is_err(), "{attack}: {:?}", parse(attack));
    }
    assert!(parse(&vec!["id"; 16].join(",")).is_ok());
}
