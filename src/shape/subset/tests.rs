//! Subsets: what is accepted, what is rejected, and that no text of a client is forwarded unchanged.

use proptest::prelude::*;

use super::*;

fn columns() -> Vec<String> {
    ["id", "title", "done"].map(str::to_owned).to_vec()
}

/// Returns the body for Electric that is built from a client's body.
fn passed(body: &str) -> Value {
    let made = SubsetQuery::from_body(body.as_bytes()).and_then(|subset| subset.body(Some(&columns())));
    serde_json::from_str(&made.unwrap_or_else(|errors| panic!("{body}: {errors:?}"))).unwrap()
}

/// Returns the errors of a body, as `name: problem`.
fn errors(body: &str) -> Vec<String> {
    let made = SubsetQuery::from_body(body.as_bytes()).and_then(|subset| subset.body(Some(&columns())));
    let errors = made.expect_err(body);
    errors.iter().map(|error| format!("{}: {}", error.name, error.problem)).collect()
}

#[test]
fn fields_and_their_values() {
    for (body, expected) in [
        ("{}", json!({})),
        (r#"{"subset":{}}"#, json!({})),
        (r#"{"where":null,"params":null,"order_by":null,"limit":null,"offset":null}"#, json!({})),
        (r#"{"where":"true = true","params":{}}"#, json!({ "where": "(TRUE = TRUE)", "params": {} })),
        (
            r#"{"where":"id IN ($1,$2) AND done = $3 AND title <> $4","params":{"1":7,"2":"8","3":true,"4":1.5,"5":"unused"}}"#,
            json!({
                "where": "((\"id\" IN ($1, $2)) AND (\"done\" = $3) AND (\"title\" <> $4))",
                "params": { "1": "7", "2": "8", "3": "true", "4": "1.5" },
            }),
        ),
        (r#"{"where":"id = $9","params":{"9":-3}}"#, json!({ "where": "(\"id\" = $1)", "params": { "1": "-3" } })),
        (
            r#"{"order_by":"id desc nulls last","limit":9223372036854775807,"offset":0}"#,
            json!({ "order_by": "\"id\" DESC NULLS LAST", "limit": i64::MAX, "offset": 0 }),
        ),
        (
            r#"{"where_expr":{"type":"func","name":"secret"},"order_by_expr":[[[1]]],"limit":1,"order_by":"id"}"#,
            json!({ "order_by": "\"id\" ASC", "limit": 1 }),
        ),
    ] {
        assert_eq!(passed(body), json!({ "subset": expected }), "{body}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_body_that_is_not_a_subset_is_rejected() {
    let body = "body: is not one JSON object without duplicate members";
    let field = "body: may contain only where, params, order_by, limit and offset";
    let beside = "subset: must be an object and the only member of the body";
    let params = "subset.params: must be an object of strings, numbers and booleans, with numbers from 1 as names";
    let limit = "subset.limit: must be a whole number greater than 0";
    let offset = "subset.offset: must be a whole number, 0 or greater";
    let ordered = "subset.order_by: is required when limit or offset is present";
    let deep = format!(r#"{{"where_expr":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for (attack, expected) in [
        ("", body),
        ("null", body),
        ("[]", body),
        ("\"\"", body),
        ("{", body),
        ("{}{}", body),
        ("{} x", body),
        ("\u{feff}{}", body),
        (r#"{"where":"id = 1","where":"true"}"#, body),
        (r#"{"where":"id = 1","wh\u0065re":"true"}"#, body),
        (r#"{"params":{"1":"a","1":"b"}}"#, body),
        (r#"{"limit":1e999}"#, body),
        (&deep, body),
        // Members that would replace the shape.
        (r#"{"table":"items"}"#, field),
        (r#"{"columns":["secret"]}"#, field),
        (r#"{"queryable_columns":["secret"]}"#, field),
        (r#"{"handle":"1-1"}"#, field),
        (r#"{"live":true}"#, field),
        (r#"{"log":"full"}"#, field),
        (r#"{"replica":"full"}"#, field),
        (r#"{"secret":"x"}"#, field),
        (r#"{"Where":"true"}"#, field),
        (r#"{"where ":"true"}"#, field),
        (r#"{"subset__where":"true"}"#, field),
        (r#"{"":1}"#, field),
        (r#"{"subset":{"table":"items"}}"#, field),
        (r#"{"subset":{"subset":{}}}"#, field),
        (r#"{"subset":{},"table":"items"}"#, beside),
        (r#"{"subset":{},"where":"true","params":{}}"#, beside),
        (r#"{"subset":{},"columns":["secret"]}"#, beside),
        (r#"{"subset":null,"where":"true"}"#, beside),
        (r#"{"subset":[]}"#, beside),
        (r#"{"subset":"{}"}"#, beside),
        // Wrong values.
        (r#"{"where":7}"#, "subset.where: must be a string"),
        (r#"{"where":["true"]}"#, "subset.where: must be a string"),
        (r#"{"where":{"sql":"true"}}"#, "subset.where: must be a string"),
        (r#"{"where":""}"#, "subset.where: must not be empty"),
        (r#"{"order_by":["id"]}"#, "subset.order_by: must be a string"),
        (r#"{"order_by":"id; DROP TABLE t"}"#, "subset.order_by: semicolons are not allowed"),
        (
            r#"{"order_by":"(SELECT 1)"}"#,
            "subset.order_by: must be columns with ASC or DESC and NULLS FIRST or NULLS LAST",
        ),
        (r#"{"params":[1]}"#, params),
        (r#"{"params":"{}"}"#, params),
        (r#"{"params":{"0":"a"}}"#, params),
        (r#"{"params":{"01":"a"}}"#, params),
        (r#"{"params":{"+1":"a"}}"#, params),
        (r#"{"params":{"x":"a"}}"#, params),
        (r#"{"params":{"1":null}}"#, params),
        (r#"{"params":{"1":["a"]}}"#, params),
        (r#"{"params":{"1":{"a":1}}}"#, params),
        (r#"{"params":{"1":18446744073709551616}}"#, params),
        (r#"{"where":"id = $1"}"#, "subset.where: a parameter has no value in params"),
        (r#"{"where":"id = $1","params":{"1":"a\u0000"}}"#, "subset.where: a value in params contains a NUL"),
        (r#"{"limit":0,"order_by":"id"}"#, limit),
        (r#"{"limit":-1,"order_by":"id"}"#, limit),
        (r#"{"limit":1.0,"order_by":"id"}"#, limit),
        (r#"{"limit":"1","order_by":"id"}"#, limit),
        (r#"{"limit":9223372036854775808,"order_by":"id"}"#, limit),
        (r#"{"offset":-1,"order_by":"id"}"#, offset),
        (r#"{"offset":"0; x","order_by":"id"}"#, offset),
        (r#"{"limit":1}"#, ordered),
        (r#"{"offset":0}"#, ordered),
    ] {
        assert_eq!(errors(attack)[0], expected, "{attack}");
    }
    assert_eq!(errors(r#"{"where":1,"limit":0,"x":1}"#).len(), 3, "all errors at once");
}

#[test]
fn depth_is_limited() {
    let deep = |depth: usize| format!(r#"{{"where_expr":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    passed(&deep(100));
    errors(&deep(200));
}

#[test]
fn query_parameters_are_checked_as_strictly_as_a_body() {
    let mut subset = SubsetQuery::default();
    for (field, text) in [
        (SubsetField::Limit, ""),
        (SubsetField::Limit, "0"),
        (SubsetField::Limit, "+1"),
        (SubsetField::Limit, " 1"),
        (SubsetField::Limit, "1e3"),
        (SubsetField::Limit, "true"),
        (SubsetField::Offset, "-1"),
        (SubsetField::Params, ""),
        (SubsetField::Params, "[]"),
        (SubsetField::Params, "{\"1\":\"a\",\"1\":\"b\"}"),
    ] {
        assert!(subset.read_text(field, text.to_owned()).is_err(), "{field:?} {text}");
    }
    assert_eq!(subset, SubsetQuery::default());
}

/// Generates any JSON, often with the names of subset fields.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "subset",
            "where",
            "params",
            "order_by",
            "limit",
            "offset",
            "where_expr",
            "table",
            "columns",
            "1",
            "2",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_i64..4).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["id", "id = $1", "true) OR (true", "secret = 1", "title desc", "id = $1 OR done"])
            .prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn check(body: &[u8]) -> Result<bool, TestCaseError> {
    let Ok(made) = SubsetQuery::from_body(body).and_then(|subset| subset.body(Some(&columns()))) else {
        return Ok(false);
    };
    let whole: Value = serde_json::from_str(&made).unwrap();
    prop_assert_eq!(whole.as_object().unwrap().len(), 1);
    for (name, value) in whole["subset"].as_object().unwrap() {
        let fits = match name.as_str() {
            "where" | "order_by" => value.is_string(),
            "limit" | "offset" => value.is_u64(),
            "params" => value.as_object().unwrap().values().all(Value::is_string),
            _ => false,
        };
        prop_assert!(fits, "{}", made);
    }
    // The built body parses to the same body.
    let again = SubsetQuery::from_body(made.as_bytes()).and_then(|subset| subset.body(Some(&columns())));
    prop_assert_eq!(again, Ok(made));
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_gives_a_subset_or_an_error(json in any_json()) {
        check(json.to_string().as_bytes())?;
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0_usize..80) {
        check(&bytes)?;
        let whole = br#"{"where":"id = $1","params":{"1":7},"order_by":"title DESC","limit":1,"offset":2}"#;
        check(&whole[..cut.min(whole.len())])?;
    }
}
