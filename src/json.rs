//! Parses JSON strictly: one object, no duplicate members, nothing after it (RFC 7519 section 4, RFC 8725 section 2.4).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The bytes are not exactly one JSON object without duplicate members.
///
/// Other causes: invalid UTF-8, a byte order mark, a lone surrogate, a number outside `f64`, more than 128 levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one JSON object without duplicate members")]
pub(crate) struct NotStrict;

/// Parses exactly one JSON object.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, NotStrict> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        _ => Err(NotStrict),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_is_parsed_exactly() {
        let text = r#"{"a":[1,-2,18446744073709551615,1.5,true,null,"\u006frg"],"b":{"a":{}}}"#;
        let object = parse_object(text.as_bytes()).unwrap();
        assert_eq!(Value::Object(object), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(Value::Object(parse_object(b" {} \n").unwrap()), serde_json::json!({}));
    }

    #[test]
    fn t10_a_duplicate_at_any_depth_is_rejected() {
        for text in [
            r#"{"org":1,"org":1}"#,
            r#"{"org":1,"\u006frg":2}"#,
            r#"{"a":{"org":1,"org":2}}"#,
            r#"{"a":[{"b":[{"x":1,"x":1}]}]}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert_eq!(parse_object(text.as_bytes()), Err(NotStrict), "{text}");
        }
    }

    #[test]
    fn t11_anything_but_one_valid_object_is_rejected() {
        let deep = "{\"a\":".repeat(200) + "1" + &"}".repeat(200);
        let cases: [&[u8]; 15] = [
            b"",
            b"[]",
            b"\"x\"",
            b"1",
            b"null",
            b"{}x",
            b"{}{}",
            b"{},",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"\udc00":1}"#,
            br#"{"a":1e999}"#,
            br#"{"a":NaN}"#,
            deep.as_bytes(),
        ];
        for case in cases {
            assert_eq!(parse_object(case), Err(NotStrict), "{:?}", String::from_utf8_lossy(case));
        }
    }
}
