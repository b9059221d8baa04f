//! Resolves `[probe]`.

use serde_json::{Map, Number, Value as Json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::ProbeSettings;
use crate::config::raw::{Section, Value};

pub(super) fn probe(mut section: Section<'_>) -> ProbeSettings {
    let claims = section.value("claims").and_then(|value| claims(&value));
    let query = section.value("query").and_then(|value| value.text());
    ProbeSettings {
        claims: Json::from(claims.unwrap_or_default()).to_string(),
        query: query.unwrap_or_default().to_owned(),
    }
}

fn claims(value: &Value<'_>) -> Option<Map<String, Json>> {
    let claims = value.raw().as_table().and_then(object);
    if claims.is_none() {
        value.error("expected a table of claims with JSON values: strings, numbers, true, false, lists and tables");
    }
    claims
}

fn object(table: &DeTable<'_>) -> Option<Map<String, Json>> {
    table.iter().map(|(name, value)| Some((name.get_ref().to_string(), json(value)?))).collect()
}

/// Converts a TOML value to JSON, as a token would carry it; `None` for dates, infinity, NaN and integers beyond 64
/// bits.
fn json(value: &Spanned<DeValue<'_>>) -> Option<Json> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(Into::into),
        DeValue::Float(float) => Number::from_f64(float.as_str().parse().ok()?).map(Json::Number),
        DeValue::Boolean(boolean) => Some((*boolean).into()),
        DeValue::Datetime(_) => None,
        DeValue::Array(values) => values.iter().map(json).collect::<Option<Vec<_>>>().map(Json::Array),
        DeValue::Table(table) => object(table).map(Json::Object),
    }
}
