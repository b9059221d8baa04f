//! The claims of a verified token, converted for CEL.

use std::collections::HashMap;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

use crate::json;

/// The claims of a token that passed every check.
pub struct Claims(Box<dyn Val>);

impl Claims {
    /// Converts verified claims. Only the verifier calls this.
    pub(super) fn new(json: Map<String, Value>) -> Self {
        Self(object(json))
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
        &*self.0
    }
}

impl fmt::Debug for Claims {
    // Claims are personal data: rules may read the values, logs must not show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims(…)")
    }
}

fn object(members: Map<String, Value>) -> Box<dyn Val> {
    let entries = members.into_iter().map(|(name, member)| (CelMapKey::from(name), cel_value(member)));
    Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
}

/// Converts JSON for CEL.
pub(crate) fn cel_value(json: Value) -> Box<dyn Val> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(value)),
        Value::Number(value) => number(&value),
        Value::String(text) => Box::new(CelString::from(text)),
        Value::Array(elements) => Box::new(CelList::from(elements.into_iter().map(cel_value).collect::<Vec<_>>())),
        Value::Object(members) => object(members),
    }
}

fn number(number: &Number) -> Box<dyn Val> {
    if let Some(integer) = number.as_i64() {
        return Box::new(CelInt::from(integer));
    }
    if let Some(integer) = number.as_u64() {
        return Box::new(CelUInt::from(integer));
    }
    // The parser accepts only finite numbers. If one were not, NaN compares equal to nothing, so rules would deny.
    Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
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
