//! Attempts to get around a rule with a filter or a body (docs/security.md, F1 to F4). Each is rejected without a
//! request to Electric, and a similar valid one is served.

use serde_json::{Value, json};

use super::{TASKS, assert_refused, encoded, gate, last_body, rows};

/// Pairs of a filter that must be rejected in every position and a similar one that is valid.
const FILTERS: &[(&str, &str)] = &[
    // Escapes from the parentheses around the filter (Electric pull request 4549; tests/electric/112, 113, 124).
    ("1=1) OR (1=1", "(1=1) OR (1=1)"),
    ("true) OR (true", "true OR true"),
    ("(true) --", "(true)"),
    ("true) --) AND user_id='user_1'", "title <> ') --'"),
    ("true /* x", "title <> '/* x'"),
    ("(true)\0", "(true)"),
    ("title = 'a\0'", "title = 'a'"),
    ("(true", "(true)"),
    ("title = 'a", "title = 'a'"),
    ("\"title = 'a'", "\"title\" = 'a'"),
    ("true LIMIT 1", "true"),
    ("true; DROP TABLE tasks", "true"),
    ("true UNION SELECT 1", "title <> 'UNION'"),
    // Other tables and rows: Electric allows subqueries (tests/electric/106).
    ("id IN (SELECT id FROM items)", "title IN ('one')"),
    ("EXISTS (SELECT 1 FROM items)", "true"),
    ("pg_sleep(10) IS NULL", "lower(title) IS NULL"),
    ("current_setting('x') = 'y'", "lower(title) = 'y'"),
    // A hidden column (GHSA-c82q-v86f-c87f).
    ("organization_id LIKE 'o%'", "title LIKE 'o%'"),
    ("\"organization_id\" = 'org_2'", "\"title\" = 'org_2'"),
    ("tasks IS NULL", "title IS NULL"),
    ("ctid IS NULL", "id IS NULL"),
    // Values.
    ("title = $7", "title = $1"),
    ("title = $0", "title = $1"),
    ("", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_filters_are_rejected_in_every_position() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let ask = async |place: usize, text: &str| match place {
        0 => gate.get(&format!("{TASKS}&where={}&params[1]=x", encoded(text)), &token).await,
        1 => gate.get(&format!("{TASKS}&subset__where={}&subset__params[1]=x", encoded(text)), &token).await,
        2 => gate.post(TASKS, &token, &json!({ "where": text, "params": { "1": "x" } }).to_string()).await,
        _ => {
            gate.post(TASKS, &token, &json!({ "subset": { "where": text, "params": { "1": "x" } } }).to_string()).await
        }
    };
    for (attack, twin) in FILTERS {
        for place in 0..4 {
            let before = gate.electric.request_count();
            let answer = ask(place, attack).await;
            // Electric takes an empty `where` for none, and the rule's own remains.
            if attack.is_empty() && place == 0 {
                assert_eq!(answer.status, 200);
                assert!(!answer.text().contains("foreign"), "{}", answer.text());
                continue;
            }
            assert_refused(&answer, 400, "invalid_request", attack);
            let name = if place == 0 { "where" } else { "subset.where" };
            assert!(answer.json()["errors"][name].is_array(), "{attack}: {}", answer.text());
            assert_eq!(gate.electric.request_count(), before, "{attack}");
            let answer = ask(place, twin).await;
            assert_eq!(answer.status, 200, "{twin}: {}", answer.text());
            assert!(!answer.text().contains("foreign"), "{twin}: {}", answer.text());
        }
    }
}

/// CVE-2026-40906: Electric once executed `order_by` as SQL.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_order_by_is_rejected() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    for attack in [
        "title; DROP TABLE tasks",
        "(SELECT title FROM items LIMIT 1)",
        "CASE WHEN organization_id = 'org_2' THEN 1 END",
        "pg_sleep(10)",
        "title --",
        "title\0",
        "organization_id",
        "1",
        "title LIMIT 1",
        "title) OR (true",
        "",
    ] {
        let answer = gate.get(&format!("{TASKS}&subset__order_by={}", encoded(attack)), &token).await;
        assert_refused(&answer, 400, "invalid_request", attack);
        let answer = gate.post(TASKS, &token, &json!({ "order_by": attack, "limit": 1 }).to_string()).await;
        assert_refused(&answer, 400, "invalid_request", attack);
    }
    assert_eq!(gate.electric.request_count(), 0);
    let query = format!("{TASKS}&subset__order_by={}", encoded("\"title\" DESC NULLS LAST, id"));
    assert_eq!(rows(&gate.get(&query, &token).await, "title"), ["two", "one"]);
}

/// Bodies with more than a subset (docs/security.md, F2; tests/electric/23, 24, 25, 125, 126).
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn bodies_that_would_replace_the_shape_are_rejected() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let twin = json!({ "order_by": "id", "limit": 2 });
    let mut attacks = vec![
        json!({ "subset": twin, "table": "items", "where": "true", "params": {}, "columns": ["id", "user_id"] }),
        json!({ "subset": twin, "where": "organization_id='org_2'", "params": {} }),
        json!({ "subset": twin, "params": { "1": "org_2" } }),
        json!({ "subset": {}, "table": "items", "queryable_columns": ["id", "user_id"] }),
        json!({ "subset": null, "table": "items" }),
        json!({ "subset": [twin], "where": "true" }),
        json!({ "subset": "{}", "where": "true" }),
        json!({ "subset": { "subset": twin } }),
        json!([twin]),
        json!("{}"),
        json!(null),
    ];
    for (name, value) in [
        ("table", json!("items")),
        ("columns", json!(["id", "organization_id"])),
        ("queryable_columns", json!("id,organization_id")),
        ("replica", json!("full")),
        ("handle", json!("1-1")),
        ("live", json!(true)),
        ("live_sse", json!(true)),
        ("log", json!("full")),
        ("secret", json!("x")),
        ("api_secret", json!("x")),
        ("source_id", json!("x")),
        ("shape_definition", json!("x")),
        ("subset__where", json!("true")),
        ("subset[where]", json!("true")),
        ("Where", json!("true")),
        ("unheard_of", json!(1)),
    ] {
        for nested in [false, true] {
            let mut body = twin.clone();
            body[name] = value.clone();
            attacks.push(if nested { json!({ "subset": body }) } else { body });
        }
    }
    for attack in attacks {
        let answer = gate.post(TASKS, &token, &attack.to_string()).await;
        assert_refused(&answer, 400, "invalid_request", &attack.to_string());
    }
    let texts = [
        r#"{"limit":1,"order_by":"id","limit":2}"#,
        r#"{"where":"true","\u0077here":"organization_id = 'org_2'"}"#,
        r#"{"subset":{},"subset":{"where":"true"}}"#,
        r#"{"params":{"1":"a","1":"b"}}"#,
        "{} {}",
        "{}\n{\"table\":\"items\"}",
        "\u{feff}{}",
        "{'where':'true'}",
        "{\"where\":\"true\",}",
        "where=true",
    ];
    for attack in texts {
        assert_refused(&gate.post(TASKS, &token, attack).await, 400, "invalid_request", attack);
    }
    assert_eq!(gate.electric.request_count(), 0);
    for body in [twin.clone(), json!({ "subset": twin })] {
        assert_eq!(rows(&gate.post(TASKS, &token, &body.to_string()).await, "title"), ["one", "two"]);
        let expected = json!({ "subset": { "order_by": "\"id\" ASC", "limit": 2 } });
        assert_eq!(last_body(&gate), expected);
    }
}

/// docs/security.md, Q2 to Q5: the names of filters and subsets in any other spelling.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn other_spellings_of_parameters_are_rejected() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    for attack in [
        "WHERE=true",
        "%57here=true",
        "where[]=true",
        "where[0]=true",
        "where%00=true",
        "where=true&where=true",
        "where=true&where=false",
        "where=true&%77here=false",
        "where=title=$1&params[1]=a&params[1]=b",
        "where=title=$1&params[01]=a",
        "where=title=$1&params[%2B1]=a",
        "where=title=$1&params[1][]=a",
        "where=title=$1&params[]=a",
        "where=title=$1&params[x]=a",
        "where=title=$1&params=%7B%221%22:%22a%22%7D",
        "where=title=$1&params[1]=a%00",
        "where=title=$1&Params[1]=a",
        "columns=id,organization_id",
        "queryable_columns=organization_id",
        "subset=true",
        "subset[where]=true",
        "subset[order_by]=id",
        "subset%5Blimit%5D=1",
        "subset__table=items",
        "subset__columns=organization_id",
        "subset__queryable_columns=organization_id",
        "SUBSET__where=true",
        "subset__WHERE=true",
        "subset__where[]=true",
        "subset__where=true&subset__where=true",
        "subset__params=%7B%221%22:1%7D&subset__params[1]=2",
        "subset__params=x",
        "subset__params=[]",
        "subset__limit=1",
        "subset__order_by=id&subset__limit=-1",
        "subset__order_by=id&subset__limit=0",
        "subset__order_by=id&subset__limit=1e1",
        "subset__order_by=id&subset__offset=-1",
        "order_by=id",
        "limit=1",
    ] {
        let answer = gate.get(&format!("{TASKS}&{attack}"), &token).await;
        assert_refused(&answer, 400, "invalid_request", attack);
    }
    assert_eq!(gate.electric.request_count(), 0);
    for twin in [
        "where=true",
        "%77here=true",
        "where=title=$1&params[1]=one",
        "where=title=$1&params%5B1%5D=one",
        "where=title=$2&params[2]=one",
        "subset__where=true",
        "subset__where=title=$1&subset__params[1]=one",
        "subset__where=title=$1&subset__params=%7B%221%22:%22one%22%7D",
        "subset__order_by=id&subset__limit=1&subset__offset=1",
        "subset__where=true&subset__where_expr=%7B%22x%22:1%7D&subset__order_by_expr=[]",
    ] {
        let answer = gate.get(&format!("{TASKS}&{twin}"), &token).await;
        assert_eq!(answer.status, 200, "{twin}: {}", answer.text());
    }
}

/// If the rule enables neither, valid filters and subsets are rejected too, as reserved parameters.
#[tokio::test(flavor = "multi_thread")]
async fn rules_without_filters_or_subsets_reject_both() {
    let gate = gate().await;
    let token = gate.issuer.token(&json!({ "sub": "user-1", "roles": ["reader"] }));
    for (target, name, attack) in [
        ("/v1/shape?table=items&offset=-1", "where", "where=true"),
        ("/v1/shape?table=items&offset=-1", "params", "params[1]=x"),
        ("/v1/shape?table=items&offset=-1", "subset", "subset__where=true"),
        ("/v1/shape?table=items&offset=-1", "subset", "subset__where_expr=1"),
        ("/v1/shape?table=items&offset=-1", "secret", "Secret=x"),
        ("/api/items?offset=-1", "subset", "subset__params[1]=true"),
        ("/api/mine?offset=-1", "where", "where=true"),
    ] {
        let answer = gate.get(&format!("{target}&{attack}"), &token).await;
        assert_refused(&answer, 400, "invalid_request", attack);
        assert_eq!(answer.json()["errors"], json!({ name: ["is reserved: only the rule may set it"] }), "{attack}");
    }
    assert_eq!(gate.electric.request_count(), 0);
    let answer = gate.get("/api/mine?offset=-1&subset__where=true", &token).await;
    assert_eq!(rows(&answer, "id"), [""; 0]);
}

/// A value that looks like SQL is still a value.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_values_are_only_compared() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    for value in ["x' OR '1'='1", "one\\", "$1", "{{ claims.sub }}", "%", "--", "org_2) OR (true", "a\nb"] {
        let body = json!({ "where": "title = $1", "params": { "1": value } }).to_string();
        assert_eq!(rows(&gate.post(TASKS, &token, &body).await, "title"), [""; 0], "{value}");
        assert_eq!(last_body(&gate)["subset"]["params"], json!({ "1": value }));
        let query = format!("{TASKS}&where=title=$1&params[1]={}", encoded(value));
        assert_eq!(gate.get(&query, &token).await.rows("title"), [""; 0], "{value}");
    }
    let nul: Value = json!({ "where": "title = $1", "params": { "1": "one\0" } });
    assert_refused(&gate.post(TASKS, &token, &nul.to_string()).await, 400, "invalid_request", "NUL");
}
