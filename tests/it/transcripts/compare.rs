//! Compares a response with the recorded one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Answer;

/// Lists the differences, without values that differ from run to run.
pub(super) fn compare(transcript: &Value, answer: &Answer, head: bool) -> Vec<String> {
    let recorded = &transcript["response"];
    let mut differences = Vec::new();
    let mut same = |what: &str, theirs: String, ours: String| {
        if theirs != ours {
            differences.push(format!("{what}\n  Electric: {theirs}\n  stand-in: {ours}"));
        }
    };
    same("status", recorded["status"].to_string(), answer.status.to_string());
    same("framing", transcript["meta"]["framing"].as_str().unwrap().to_owned(), answer.framing.to_owned());
    let pair = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned());
    let theirs: Vec<_> = recorded["headers"].as_array().unwrap().iter().map(pair).collect();
    same("headers", normal_headers(&theirs), normal_headers(&answer.headers));
    let body = recorded["body"].as_str().unwrap_or_default();
    if head {
        same("body", String::new(), answer.body.clone());
    } else if transcript["meta"]["body_truncated"] == true {
        // Only the start was recorded; all rows have the same structure.
        same("first item", first_item(body), first_item(&answer.body));
    } else {
        same("body", normal_body(body), normal_body(&answer.body));
    }
    differences
}

/// Formats headers with placeholders for values that differ from run to run.
fn normal_headers(headers: &[(String, String)]) -> String {
    let normal = |(name, value): &(String, String)| {
        let value = match name.as_str() {
            "date" => "D".to_owned(),
            "x-request-id" if value.starts_with("my-") => value.clone(),
            "x-request-id" if value.len() == 20 => "R".to_owned(),
            "electric-handle" if is_handle(value) => "H".to_owned(),
            "electric-cursor" if value.parse::<u64>().is_ok() => "C".to_owned(),
            "electric-offset" => normal_offset(value),
            "retry-after" if ["6", "7", "8", "9", "10"].contains(&value.as_str()) => "6..10".to_owned(),
            "etag" => {
                let parts = value.trim_matches('"').split(':').enumerate();
                let parts = parts.map(|(at, part)| match at {
                    0 if is_handle(part) => "H".to_owned(),
                    3 => "M".to_owned(),
                    _ => normal_offset(part),
                });
                parts.collect::<Vec<_>>().join(":")
            }
            _ => value.clone(),
        };
        format!("\n    {name}: {value}")
    };
    headers.iter().map(normal).collect()
}

fn is_handle(text: &str) -> bool {
    text.split_once('-').is_some_and(|(hash, micros)| hash.parse::<u32>().is_ok() && micros.len() == 16)
}

fn normal_offset(offset: &str) -> String {
    let real = offset.split_once('_').is_some_and(|(tx, op)| tx.len() > 4 && op.parse::<u64>().is_ok());
    if real { "O".to_owned() } else { offset.to_owned() }
}

fn first_item(body: &str) -> String {
    let start = body.find("{\"key\"").expect("no row");
    let mut items = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Value>();
    structure(&items.next().unwrap().unwrap(), "").to_string()
}

/// Reduces rows and control messages to their structure, and returns any other text unchanged.
fn normal_body(body: &str) -> String {
    if body.starts_with("data: ") {
        let mut events: Vec<_> = body.split_inclusive("\n\n").map(normal_event).collect();
        // The number of keep-alives depends on timing.
        events.dedup();
        return events.concat();
    }
    match serde_json::from_str(body) {
        Ok(value @ Value::Array(_)) => structure(&value, "").to_string(),
        Ok(value) if value.get("metadata").is_some() => structure(&value, "").to_string(),
        _ => body.to_owned(),
    }
}

fn normal_event(event: &str) -> String {
    match event.strip_prefix("data: ").and_then(|data| data.strip_suffix("\n\n")) {
        Some(data) => format!("data: {}\n\n", structure(&serde_json::from_str(data).unwrap(), "")),
        None => event.to_owned(),
    }
}

/// Replaces the strings and numbers of a JSON value by placeholders, except those that give the kind of a message.
/// Equal neighbours in a list become one.
fn structure(value: &Value, name: &str) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().map(|(name, value)| (name.clone(), structure(value, name)));
            json!(entries.collect::<BTreeMap<_, _>>())
        }
        Value::Array(items) if name == "relation" => json!(items),
        Value::Array(items) => {
            let mut items: Vec<_> = items.iter().map(|item| structure(item, "")).collect();
            items.dedup();
            json!(items)
        }
        Value::String(text) if ["control", "operation"].contains(&name) => json!(text),
        Value::String(_) => json!("text"),
        Value::Number(number) if name == "op_position" => json!(number),
        Value::Number(_) => json!("number"),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}
