//! Parses query strings as Plug does.

use percent_encoding::percent_decode;
use serde_json::{Map, Value};

/// The query has bytes that are not UTF-8. Electric answers 400 without a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

/// Returns the parameters of `query`. The last value of a name counts, `a[b]=` makes an object and `a[]=` a list.
pub(super) fn parse(query: &str) -> Result<Map<String, Value>, NotUtf8> {
    let mut params = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        insert(&mut params, &name, value);
    }
    Ok(params)
}

/// Decodes a text. `+` is a space; an invalid percent escape stays as it is.
pub(super) fn decode(text: &str) -> Result<String, NotUtf8> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| NotUtf8)
}

fn insert(params: &mut Map<String, Value>, name: &str, value: String) {
    let Some((base, rest)) = name.split_once('[').filter(|(base, rest)| !base.is_empty() && rest.ends_with(']')) else {
        params.insert(name.to_owned(), Value::String(value));
        return;
    };
    let rest = &rest[..rest.len() - 1];
    let slot = params.entry(base).or_insert(Value::Null);
    place(slot, rest.split("]["), value);
}

/// Puts `value` at the path `keys`. A value of another form on the way is replaced.
fn place<'a>(slot: &mut Value, mut keys: impl Iterator<Item = &'a str>, value: String) {
    match keys.next() {
        None => *slot = Value::String(value),
        Some("") => {
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            if let Value::Array(items) = slot {
                items.push(Value::String(value));
            }
        }
        Some(key) => {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            // Boxed, since the iterator's type would grow with each level otherwise.
            if let Value::Object(map) = slot {
                let rest: Box<dyn Iterator<Item = &'a str>> = Box::new(keys.collect::<Vec<_>>().into_iter());
                place(map.entry(key).or_insert(Value::Null), rest, value);
            }
        }
    }
}

/// Whether the query has the right secret: in `secret` if that is given, else in `api_secret`.
pub(super) fn carries(params: &Map<String, Value>, secret: &str) -> bool {
    let given = params.get("secret").or_else(|| params.get("api_secret"));
    given.and_then(Value::as_str) == Some(secret)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(query: &str) -> Value {
        Value::Object(parse(query).unwrap())
    }

    #[test]
    fn the_last_value_of_a_name_counts() {
        assert_eq!(parsed("a=1&a=2&live"), json!({"a": "2", "live": ""}));
    }

    #[test]
    fn brackets_make_objects_and_lists() {
        assert_eq!(parsed("params%5B1%5D=x&params[2]=y"), json!({"params": {"1": "x", "2": "y"}}));
        assert_eq!(parsed("c[]=a&c[]=b"), json!({"c": ["a", "b"]}));
        assert_eq!(parsed("s[params][1]=a&s[where]=w"), json!({"s": {"params": {"1": "a"}, "where": "w"}}));
        assert_eq!(parsed("[x]=a&b]=c"), json!({"[x]": "a", "b]": "c"}));
    }

    #[test]
    fn texts_are_decoded_as_in_plug() {
        assert_eq!(parsed("a=x+y%20z&b=%zz&c=%00"), json!({"a": "x y z", "b": "%zz", "c": "\0"}));
        assert_eq!(parse("a=%FF"), Err(NotUtf8));
    }

    #[test]
    fn the_last_secret_counts_and_precedes_api_secret() {
        let carries = |query| carries(&parse(query).unwrap(), "right");
        assert!(carries("secret=wrong&secret=right"));
        assert!(carries("%73ecret=%72ight"));
        assert!(carries("api_secret=right"));
        assert!(carries("secret=right&api_secret=wrong"));
        assert!(!carries("secret=right&secret=wrong"));
        assert!(!carries("secret=&api_secret=right"));
        assert!(!carries("secret[]=right"));
        assert!(!carries(""));
    }
}
