use serde_json::json;

use super::*;
use crate::demo::electric::database::{Change, Column, Database, TableName};

const COLUMNS: [(&str, &str); 5] =
    [("id", "int4"), ("name", "text"), ("done", "bool"), ("tags", "text[]"), ("Owner", "uuid")];

fn scope() -> Scope {
    let columns = COLUMNS.iter().map(|(name, pg_type)| ((*name).to_owned(), Kind::of(pg_type))).collect();
    let params = BTreeMap::from([(1, "ann".to_owned()), (2, "{1,7}".to_owned()), (3, "ann\0x".to_owned())]);
    Scope { columns, params }
}

fn row() -> Row {
    let name = TableName::parse("t").unwrap();
    let mut database = Database::default();
    let columns = COLUMNS.iter().map(|(name, pg_type)| Column::new(name, pg_type));
    database.create(name.clone(), columns.chain([Column::new("k", "int4").primary_key(0)]).collect());
    let owner = "00000000-0000-0000-0000-0000000000AB";
    let row = json!({"k": 1, "id": 7, "name": "ann", "done": null, "tags": "{x,\"y z\"}", "Owner": owner});
    database.apply(&Change::Insert("t".to_owned(), row)).unwrap();
    database.table(&name).unwrap().rows().next().unwrap().clone()
}

fn holds(text: &str) -> bool {
    let condition = Condition::parse(text, &scope()).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    condition.holds(&row())
}

fn error(text: &str) -> String {
    match Condition::parse(text, &scope()) {
        Err(SqlError::Invalid(message)) => message,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn conditions_hold_or_not_as_in_postgres() {
    let pairs = [
        ("id = 7", "id = 8"),
        ("id=7 AND name='ann'", "id=7 AND name='bob'"),
        ("id=8 OR name = $1", "id=8 OR name <> $1"),
        ("NOT id = 8", "NOT id = 7"),
        ("id <> 8", "id != 7"),
        ("id < 10", "id < -10"),
        ("id <= '7' AND id >= 7.0", "id > 7"),
        ("id IN (1, 7)", "id NOT IN (1, 7)"),
        ("id = ANY($2)", "id = ANY(ARRAY[1, 2])"),
        ("tags @> ARRAY['y z']", "tags @> ARRAY['y']"),
        ("tags @> '{x}'", "tags @> '{x,w}'"),
        ("done IS NULL", "done IS NOT NULL"),
        ("name LIKE 'a%n'", "name LIKE 'A%'"),
        ("name ILIKE 'A_N'", "name ILIKE 'A_'"),
        ("name NOT LIKE 'b%'", "name LIKE 'a\\%'"),
        ("id BETWEEN 1 AND 7", "id NOT BETWEEN 1 AND 7"),
        ("(id = 7)", "(id = 7) AND (false)"),
        ("\"Owner\" = '00000000-0000-0000-0000-0000000000ab'", "\"Owner\" = '00000000-0000-0000-0000-0000000000ac'"),
        ("name = 'ann'::text", "name = 'O''ann'"),
        ("true", "false"),
        ("lower('ANN') = name AND upper(name) = 'ANN'", "upper(name) = name"),
        ("(id = 7) IS TRUE", "done IS TRUE"),
    ];
    for (yes, no) in pairs {
        assert!(holds(yes), "{yes}");
        assert!(!holds(no), "{no}");
    }
}

#[test]
fn null_is_neither_true_nor_false() {
    for text in ["done", "NOT done", "done = true", "done <> true", "done IN (true)", "NOT (done IN (true))"] {
        assert!(!holds(text), "{text}");
    }
    assert!(holds("done OR true"));
    assert!(holds("NOT (done AND false)"));
}

/// The ways around a guard that wraps a client's text, as in the real service.
#[test]
fn guards_around_a_text_can_be_escaped_as_in_electric() {
    assert!(holds("(true) --) AND name='bob'"));
    assert!(holds("(true)\0) AND name='bob'"));
    assert!(holds("(name='bob') AND (true) OR (true)"));
    assert!(holds("(true) /* /* */ ) AND name='bob' */"));
    assert!(holds("true LIMIT 1"));
    assert!(holds("name = $3"), "a NUL ends a parameter");
    assert!(!holds("(true) AND name='bob'"));
}

#[test]
fn texts_of_one_meaning_have_one_canonical_form() {
    let canonical = |text| Condition::parse(text, &scope()).unwrap().canonical();
    assert_eq!(canonical("(true) --) AND x"), canonical("true"));
    assert_eq!(canonical("name=$1"), canonical("(\"name\" = 'ann')"));
    assert_ne!(canonical("name=$1"), canonical("name='bob'"));
}

#[test]
fn errors_have_electric_s_messages() {
    assert_eq!(error("nope=1"), "At location 0: unknown reference nope");
    assert_eq!(error("id===1"), "At location 2: unknown binary operator \"===\"");
    assert_eq!(error("name=$9"), "At location 5: parameter $9 was not provided");
    for text in ["", "id =", "id = 7;", "(true", "true)", "id = 'seven'", "id IN ()", "'x' AND true", "id", "$1"] {
        error(text);
    }
    error("id IN (SELECT 1)");
    error("name = 'open");
    assert_eq!(Condition::parse("true UNION SELECT 1", &scope()), Err(SqlError::Crash));
    error(&"(".repeat(100_000));
    error(&format!("{}true", "NOT ".repeat(100_000)));
}

#[test]
fn order_by_names_columns_only() {
    assert!(OrderBy::parse("id DESC NULLS LAST, \"Owner\" ASC", &scope()).is_ok());
    for text in ["nope", "id DOWN", "id NULLS", "1", "id,"] {
        assert!(OrderBy::parse(text, &scope()).is_err(), "{text}");
    }
}
