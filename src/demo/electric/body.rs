//! The body of a POST, which can replace the definition in the URL.

use serde_json::{Map, Value};

use super::database::quote;
use crate::demo::http::Request;

/// The fields of a flat body that describe a subset. Every other field replaces the query parameter of that name.
const SUBSET_KEYS: [&str; 7] = ["where", "order_by", "limit", "offset", "params", "where_expr", "order_by_expr"];

/// Why a body is rejected: the status, and the JSON that explains it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadBody {
    pub(super) status: u16,
    pub(super) json: String,
}

/// Merges the body of `request` into `params`, as `merge_body_params` of Electric's `serve_shape_plug.ex` does.
pub(super) fn merge(params: &mut Map<String, Value>, request: &Request) -> Result<(), BadBody> {
    let bad = |status, json: &str| Err(BadBody { status, json: json.to_owned() });
    if request.body_too_large {
        return bad(413, r#"{"error":"Request body too large"}"#);
    }
    if request.body.is_empty() {
        return Ok(());
    }
    let parsed = serde_json::from_slice(&request.body).map_err(|error| BadBody {
        status: 400,
        json: format!(
            r#"{{"error":"Invalid JSON in request body","details":{}}}"#,
            quote(&details(&request.body, &error))
        ),
    })?;
    let Value::Object(body) = parsed else {
        return bad(400, r#"{"error":"Request body must be a JSON object"}"#);
    };
    let nested = body.get("subset").is_some_and(Value::is_object);
    let mut subset = Map::new();
    for (name, value) in body {
        if !nested && SUBSET_KEYS.contains(&name.as_str()) {
            subset.insert(name, value);
        } else {
            params.insert(name, value);
        }
    }
    if !subset.is_empty() {
        params.insert("subset".to_owned(), Value::Object(subset));
    }
    Ok(())
}

/// Returns the error message of Electric's JSON parser.
fn details(body: &[u8], error: &serde_json::Error) -> String {
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let position = before + error.column().saturating_sub(1);
    match body.get(position) {
        Some(byte) if !error.is_eof() => {
            format!("unexpected byte at position {position}: 0x{byte:X} ({:?})", char::from(*byte).to_string())
        }
        _ => format!("unexpected end of input at position {}", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(query: Value, body: &str) -> Value {
        let Value::Object(mut params) = query else { panic!("not an object") };
        let request = Request { body: body.to_owned().into(), ..Request::default() };
        merge(&mut params, &request).unwrap();
        Value::Object(params)
    }

    #[test]
    fn a_flat_body_is_a_subset_and_replaces_the_table() {
        let body = r#"{"where":"a","table":"b","limit":1}"#;
        let expected = json!({"where": "mine", "table": "b", "subset": {"where": "a", "limit": 1}});
        assert_eq!(merged(json!({"where": "mine", "table": "t"}), body), expected);
    }

    #[test]
    fn a_body_with_a_subset_replaces_the_where_too() {
        let expected = json!({"where": "true", "subset": {}});
        assert_eq!(merged(json!({"where": "mine"}), r#"{"where":"true","subset":{}}"#), expected);
    }

    #[test]
    fn an_empty_body_changes_nothing() {
        assert_eq!(merged(json!({"where": "mine"}), ""), json!({"where": "mine"}));
        assert_eq!(merged(json!({"where": "mine"}), "{}"), json!({"where": "mine"}));
    }
}
