//! Generates texts that a client may send, for the property tests.

use proptest::prelude::*;

/// Generates a condition on id (a number), name (a text), done (a boolean), tags (texts) and "Owner" (a uuid). It uses
/// `$1` to `$4` of [`super::params`].
pub(crate) fn condition() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        comparison(),
        (comparison(), not(), any::<bool>()).prop_map(|(inner, not, wanted)| format!("({inner}) IS {not}{wanted}")),
        (value(), not()).prop_map(|(value, not)| format!("{value} IS {not}NULL")),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), joint(), inner.clone()).prop_map(|(left, joint, right)| format!("{left} {joint} {right}")),
            (inner.clone(), joint(), inner.clone())
                .prop_map(|(left, joint, right)| format!("({left}) {joint}({right})")),
            inner.clone().prop_map(|inner| format!("not {inner}")),
            inner.prop_map(|inner| format!("NOT({inner})")),
        ]
    })
}

/// Generates a comparison of a column with constants, or of constants only.
fn comparison() -> impl Strategy<Value = String> {
    prop_oneof![
        (number_column(), operator(), number()).prop_map(|(left, op, right)| format!("{left} {op} {right}")),
        (number(), operator(), number_column()).prop_map(|(left, op, right)| format!("{left} {op} {right}")),
        (text_column(), operator(), text()).prop_map(|(left, op, right)| format!("{left}{op}{right}")),
        (text(), operator(), text_column()).prop_map(|(left, op, right)| format!("{left}{op}{right}")),
        (text(), operator(), text()).prop_map(|(left, op, right)| format!("{left}{op}{right}")),
        (not(), prop::collection::vec(number(), 1..4))
            .prop_map(|(not, list)| format!("id {not}IN({})", list.join(","))),
        (not(), number(), number()).prop_map(|(not, low, high)| format!("id {not}between {low} AND {high}")),
        (text_column(), not(), pattern()).prop_map(|(value, not, pattern)| format!("{value} {not}{pattern}")),
        array().prop_map(|array| format!("tags @> {array}")),
        array().prop_map(|array| format!("{array} <@ \"tags\"")),
        (text_column(), array()).prop_map(|(value, array)| format!("{value} = ANY({array})")),
        text().prop_map(|value| format!("{value} = ANY(tags)")),
        prop_oneof![Just("done"), Just("true"), Just("FALSE"), Just("\"Owner\" = $1::uuid")].prop_map(str::to_owned),
    ]
}

fn pick(choices: &'static [&'static str]) -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(choices)
}

fn not() -> impl Strategy<Value = &'static str> {
    pick(&["", "NOT ", "not "])
}

fn joint() -> impl Strategy<Value = &'static str> {
    pick(&["AND", "OR", "and", "or"])
}

fn operator() -> impl Strategy<Value = &'static str> {
    pick(&["=", "<>", "!=", "<", "<=", ">", ">="])
}

fn number_column() -> impl Strategy<Value = &'static str> {
    pick(&["id", "\"id\"", "ID"])
}

fn number() -> impl Strategy<Value = &'static str> + Clone {
    pick(&["0", "7", "-3", "1.5", "(2)"])
}

fn text_column() -> impl Strategy<Value = &'static str> {
    pick(&["name", "\"name\"", "name::text"])
}

fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        pick(&["$2", "$4", "'ann'", "''", "'O''Neil'", "'--'"]).prop_map(str::to_owned),
        "[a-zA-Z0-9 ;()$%_*/-]{0,8}".prop_map(|text| format!("'{text}'")),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    (pick(&["LIKE ", "ilike "]), pick(&["$4", "$2", "'%a%'", "'a_n'", "'%'"]))
        .prop_map(|(like, with)| format!("{like}{with}"))
}

fn array() -> impl Strategy<Value = &'static str> + Clone {
    pick(&["$3", "ARRAY['x', 'y z']", "ARRAY[$2]", "'{x}'", "$3::text[]"])
}

fn value() -> impl Strategy<Value = &'static str> {
    pick(&["id", "name", "done", "tags", "\"Owner\"", "'x'", "$1"])
}
