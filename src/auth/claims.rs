//! The claims of a verified token, converted for CEL.

use std::collections::HashMap;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

use crate::{heap, json};

/// The claims of a token that passed every check.
pub struct Claims {
    value: Box<dyn Val>,
    bytes: usize,
}

impl Claims {
    /// Converts verified claims. Only the verifier calls this.
    pub(super) fn new(json: Map<String, Value>) -> Self {
        let mut conversion = Conversion { bytes: 0 };
        let value = conversion.object(json);
        Self { value, bytes: conversion.bytes }
    }

    /// The bytes that the claims take on the heap: up to fifty times their bytes in the token.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Parses sample claims to try rules with; `None` if the text is not a JSON object.
    ///
    /// Sample claims authorize nothing: that takes a [`Principal`](super::Principal), which only the verifier makes.
    pub fn sample(text: &str) -> Option<Self> {
        json::parse_object(text.as_bytes()).ok().map(Self::new)
    }

    /// Returns the claims as a CEL map.
    ///
    /// Integers that fit into `i64` are `int`, larger ones are `uint`, every other number is `double`.
    pub fn cel(&self) -> &(dyn Val + 'static) {
        &*self.value
    }
}

impl fmt::Debug for Claims {
    // Claims are personal data: rules may read the values, logs must not show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims(…)")
    }
}

/// Converts JSON for CEL.
pub(crate) fn cel_value(json: Value) -> Box<dyn Val> {
    Conversion { bytes: 0 }.value(json)
}

/// Converts JSON to CEL, and adds up the bytes of the result.
struct Conversion {
    bytes: usize,
}

impl Conversion {
    fn object(&mut self, members: Map<String, Value>) -> Box<dyn Val> {
        let entries = members.into_iter().map(|(name, member)| (self.text(name).into(), self.value(member)));
        let entries: HashMap<CelMapKey<'_>, _> = entries.collect();
        self.bytes += heap::hash_table(entries.capacity(), size_of::<(CelMapKey<'_>, Box<dyn Val>)>());
        self.boxed(CelMap::from(entries))
    }

    fn list(&mut self, elements: Vec<Value>) -> Box<dyn Val> {
        let mut list: Vec<_> = elements.into_iter().map(|element| self.value(element)).collect();
        // It may have taken over the memory of `elements`, which is larger.
        list.shrink_to_fit();
        self.bytes += heap::allocation(size_of_val(&*list));
        self.boxed(CelList::from(list))
    }

    fn value(&mut self, json: Value) -> Box<dyn Val> {
        match json {
            Value::Null => self.boxed(CelNull),
            Value::Bool(value) => self.boxed(CelBool::from(value)),
            Value::Number(value) => self.number(&value),
            Value::String(text) => {
                let text = CelString::from(self.text(text));
                self.boxed(text)
            }
            Value::Array(elements) => self.list(elements),
            Value::Object(members) => self.object(members),
        }
    }

    fn number(&mut self, number: &Number) -> Box<dyn Val> {
        if let Some(integer) = number.as_i64() {
            return self.boxed(CelInt::from(integer));
        }
        if let Some(integer) = number.as_u64() {
            return self.boxed(CelUInt::from(integer));
        }
        // The parser accepts only finite numbers. If one were not, NaN compares equal to nothing, so rules would deny.
        self.boxed(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
    }

    fn text(&mut self, mut text: String) -> String {
        text.shrink_to_fit();
        self.bytes += heap::allocation(text.len());
        text
    }

    fn boxed<V: Val + 'static>(&mut self, value: V) -> Box<dyn Val> {
        self.bytes += heap::allocation(size_of::<V>());
        Box::new(value)
    }
}

#[cfg(test)]
mod tests {
    use cel::{Context, Program};
    use serde_json::json;

    use super::*;

    fn holds(claims: &Claims, expression: &str) -> bool {
        let mut context = Context::default();
        context.add_variable_as_val("claims", claims.cel().clone_as_boxed());
        let value = Program::compile(expression).unwrap().execute(&context).unwrap();
        value == cel::Value::Bool(true)
    }

    fn claims() -> Claims {
        let json = json!({
            "big": u64::MAX, "exact": 9_007_199_254_740_993_i64, "negative": -3, "half": 0.5, "admin": true, "none": null,
            "orgs": ["a", "b"], "nested": { "deep": [1] },
        });
        Claims::new(json.as_object().unwrap().clone())
    }

    #[test]
    fn every_kind_of_claim_reaches_cel_exactly() {
        for expression in [
            "claims.big == 18446744073709551615u && type(claims.big) == uint",
            "claims.exact == 9007199254740993 && type(claims.exact) == int",
            "claims.negative == -3",
            "claims.half == 0.5 && type(claims.half) == double",
            "claims.admin",
            "claims.none == null",
            "'b' in claims.orgs && !('c' in claims.orgs)",
            "claims.nested.deep[0] == 1",
            "!has(claims.other)",
        ] {
            assert!(holds(&claims(), expression), "{expression}");
        }
    }

    #[test]
    fn debug_output_of_claims_shows_no_values() {
        assert_eq!(format!("{:?}", claims()), "Claims(…)");
    }
}
