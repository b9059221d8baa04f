use proptest::collection::{btree_map, vec};
use proptest::prelude::{Strategy, prop_assert_eq, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::*;
use crate::clock::UnixTime;

fn template(context: Value) -> Result<QuestionTemplate, Problem> {
    let members = |value: Value| value.as_object().cloned().unwrap_or_default();
    let source = QuestionSource {
        by: "pdp".to_owned(),
        subject: EntitySource {
            kind: "user".to_owned(),
            id: Some("{{ claims.sub }}".to_owned()),
            properties: members(json!({ "roles": "{{ claims.roles }}", "fixed": [1, true, "{\"}"] })),
        },
        action: "re\"ad".to_owned(),
        resource: EntitySource {
            kind: "doc".to_owned(),
            id: Some("folder-{{ query.folder }}".to_owned()),
            properties: Map::new(),
        },
        context: members(context),
    };
    QuestionTemplate::compile(&source, Kind::Evaluation)
}

fn bytes(template: &QuestionTemplate, claims: Value, folder: &str) -> Option<Vec<u8>> {
    let claims = crate::auth::cel_value(claims);
    let query = [("folder".to_owned(), folder.to_owned())];
    let scope = Scope::new(Some(claims.as_ref()), &query, UnixTime::from_secs(0));
    let mut body = Vec::new();
    template.pieces.iter().try_for_each(|piece| piece.write(&scope, &mut body))?;
    Some(body)
}

fn rendered(context: Value, claims: Value, folder: &str) -> Option<Value> {
    let body = bytes(&template(context).unwrap(), claims, folder)?;
    Some(serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body))))
}

#[test]
fn a_question_holds_the_values_of_the_request_as_json() {
    let claims = json!({
        "sub": "a\"b\\c", "roles": ["x", 1, u64::MAX, -1.5, null, true, { "b": {}, "a": [] }], "n": 7,
    });
    assert_eq!(
        rendered(json!({ "n": "{{ claims.n }}", "text": "n={{ claims.n }}", "none": {} }), claims.clone(), "f\n1"),
        Some(json!({
            "action": { "name": "re\"ad" },
            "context": { "n": 7, "text": "n=7", "none": {} },
            "resource": { "id": "folder-f\n1", "type": "doc" },
            "subject": {
                "id": claims["sub"], "type": "user",
                "properties": { "fixed": [1, true, "{\"}"], "roles": claims["roles"] },
            },
        }))
    );
}

#[test]
fn an_id_that_is_a_number_is_sent_as_text() {
    let question = rendered(json!({}), json!({ "sub": 42, "roles": [] }), "f").unwrap();
    assert_eq!(question["subject"]["id"], json!("42"));
}

#[test]
fn a_value_that_is_missing_or_no_id_asks_nothing() {
    for claims in [
        json!({}),
        json!({ "sub": "a" }),
        json!({ "sub": "", "roles": [] }),
        json!({ "sub": ["a"], "roles": [] }),
        json!({ "sub": null, "roles": [] }),
        json!({ "sub": "a\u{0}", "roles": [] }),
    ] {
        assert_eq!(rendered(json!({}), claims.clone(), "f"), None, "{claims}");
    }
    assert_eq!(rendered(json!({}), json!({ "sub": "a", "roles": [] }), ""), None, "an empty parameter");
    assert!(rendered(json!({}), json!({ "sub": "a", "roles": [] }), "f").is_some());
}

type Inputs = (String, Value, String);

/// Few texts, and values that look alike, so that inputs are often equal or almost equal.
fn inputs() -> impl Strategy<Value = Inputs> {
    let text = r#"["\\{}:,a0]{1,2}"#;
    let alike = [json!(0), json!(0.0), json!("0"), json!(-0.0), json!(null), json!("null"), json!(true), json!([])];
    let leaf = prop_oneof![select(alike.to_vec()), text.prop_map(Value::from)];
    let value = leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map("[a0]", inner, 0..3).prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    });
    (text, value, text)
}

/// Two inputs, of which the second one is often the first with one part of the other.
fn two_inputs() -> impl Strategy<Value = [Inputs; 2]> {
    (inputs(), inputs(), 0..5).prop_map(|(one, other, part)| {
        let mut changed = one.clone();
        match part {
            0 => changed.0 = other.0,
            1 => changed.1 = other.1,
            2 => changed.2 = other.2,
            3 => changed = other,
            _ => std::mem::swap(&mut changed.0, &mut changed.2),
        }
        [one, changed]
    })
}

/// docs/security.md, D1, D2: equal bytes share a cached decision.
#[test]
fn questions_are_equal_only_if_every_input_is() {
    let template = template(json!({ "text": "{{ claims.sub }}-{{ query.folder }}" })).unwrap();
    let of = |(sub, roles, folder): &Inputs| bytes(&template, json!({ "sub": sub, "roles": roles }), folder).unwrap();
    let checked = TestRunner::new(Config::with_cases(2_000)).run(&two_inputs(), |[one, other]| {
        let question: Value = serde_json::from_slice(&of(&one)).unwrap();
        prop_assert_eq!(&question["subject"]["id"], &json!(one.0));
        prop_assert_eq!(&question["subject"]["properties"]["roles"], &one.1);
        prop_assert_eq!(&question["resource"]["id"], &json!(format!("folder-{}", one.2)));
        // By their text, since 0.0 and -0.0 are equal as numbers.
        prop_assert_eq!(of(&one) == of(&other), format!("{one:?}") == format!("{other:?}"));
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn expressions_that_cannot_be_asked_are_rejected_at_load() {
    for (text, hint) in [
        ("{{ now }}", "every second"),
        ("{{ decision.ids }}", "at the same time"),
        ("{{ decision.context.x }}", "at the same time"),
        ("{{ decision }}", "write decision.ids"),
        ("{{ claim.x }}", "unknown variable"),
        ("{{ claims.x", "without `}}`"),
    ] {
        let error = template(json!({ "x": text })).unwrap_err().to_string();
        assert!(error.contains(hint), "{text}: {error}");
    }
}
