//! Parses a client's subset strictly and builds a new body for Electric with at most five fields.
//!
//! Electric merges the body of a POST over the query, so a client's body could replace table, `where` and columns
//! (tests/electric/23 to 25, 125, 126). A client's body is therefore never forwarded: the body for Electric is built
//! here and contains only a `subset` object, which cannot replace them. `subset__…` parameters of a query are sent in
//! the same form, so that Electric's limit on the request line does not apply to them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::protocol::{SubsetField, parameter_number};
use super::request::{ParameterError, REPEATED, problem};
use crate::filter::{ClientFilter, OrderBy};
use crate::json;

/// The most rows that a subset may request or skip: the largest `int8` of Postgres, which is also Electric's limit.
const MAX_ROWS: u64 = i64::MAX as u64;

/// A parsed subset of a client. Its `where` and `order_by` are not checked yet; [`Self::body`] checks them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubsetQuery {
    condition: Option<String>,
    /// The values of `condition`, by number.
    params: BTreeMap<u32, String>,
    order_by: Option<String>,
    limit: Option<u64>,
    offset: Option<u64>,
}

impl SubsetQuery {
    /// Parses a body: one JSON object of at most 128 levels. It contains only the fields of a subset, or only
    /// `{"subset":{…}}`. The caller bounds its length (`limits.body_bytes`).
    ///
    /// # Errors
    /// Every member that is not a field of a subset or has an invalid value.
    pub fn from_body(body: &[u8]) -> Result<Self, Vec<ParameterError>> {
        let Ok(mut members) = json::parse_object(body) else {
            return Err(vec![problem("body", "is not one JSON object without duplicate members")]);
        };
        let fields = match members.remove("subset") {
            None => members,
            Some(Value::Object(fields)) if members.is_empty() => fields,
            Some(_) => return Err(vec![problem("subset", "must be an object and the only member of the body")]),
        };
        let mut subset = Self::default();
        let mut errors = Vec::new();
        for (name, value) in fields {
            let read = match SubsetField::from_name(&name) {
                Some(field) => subset.read(field, value),
                None => Err(problem("body", "may contain only where, params, order_by, limit and offset")),
            };
            errors.extend(read.err());
        }
        if errors.is_empty() { Ok(subset) } else { Err(errors) }
    }

    /// Reads a field from a query parameter.
    pub(super) fn read_text(&mut self, field: SubsetField, text: String) -> Result<(), ParameterError> {
        let value = match field {
            SubsetField::Where | SubsetField::OrderBy | SubsetField::WhereExpr | SubsetField::OrderByExpr => {
                text.into()
            }
            SubsetField::Params => match json::parse_object(text.as_bytes()) {
                Ok(params) => params.into(),
                Err(_) => return Err(problem(field.as_str(), PARAMS)),
            },
            SubsetField::Limit | SubsetField::Offset => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u64>().ok().filter(|_| digits).map_or(Value::Bool(false), Value::from)
            }
        };
        self.read(field, value)
    }

    /// Reads one numbered value of the filter.
    pub(super) fn read_param(&mut self, number: u32, value: String) -> Result<(), ParameterError> {
        match self.params.insert(number, value) {
            None => Ok(()),
            Some(_) => Err(problem(SubsetField::Params.as_str(), REPEATED)),
        }
    }

    fn read(&mut self, field: SubsetField, value: Value) -> Result<(), ParameterError> {
        let fail = |words| Err(problem(field.as_str(), words));
        match (field, value) {
            // Electric's client sends these in addition to the SQL that it made from them. They use the client's names
            // of columns, and Electric ignores them, so they are dropped.
            (SubsetField::WhereExpr | SubsetField::OrderByExpr, _) | (_, Value::Null) => {}
            (SubsetField::Where, Value::String(text)) => self.condition = Some(text),
            (SubsetField::OrderBy, Value::String(text)) => self.order_by = Some(text),
            (SubsetField::Where | SubsetField::OrderBy, _) => return fail("must be a string"),
            (SubsetField::Limit, value) => match rows(&value).filter(|rows| *rows > 0) {
                Some(rows) => self.limit = Some(rows),
                None => return fail("must be a whole number greater than 0"),
            },
            (SubsetField::Offset, value) => match rows(&value) {
                Some(rows) => self.offset = Some(rows),
                None => return fail("must be a whole number, 0 or greater"),
            },
            (SubsetField::Params, Value::Object(values)) => {
                for (number, value) in &values {
                    let (Some(number), Some(value)) = (parameter_number(number), value_text(value)) else {
                        return fail(PARAMS);
                    };
                    self.read_param(number, value)?;
                }
            }
            (SubsetField::Params, _) => return fail(PARAMS),
        }
        Ok(())
    }

    /// Builds the body for Electric. `columns` are those that `where` and `order_by` may name; `None` for all.
    ///
    /// Parameters are numbered from 1, independent of those of the shape's own `where` (tests/electric/19).
    ///
    /// # Errors
    /// The errors in `where` and in `order_by`.
    pub fn body(&self, columns: Option<&[String]>) -> Result<String, Vec<ParameterError>> {
        let mut fields = Map::new();
        let mut errors = Vec::new();
        if let Some(text) = &self.condition {
            match ClientFilter::parse(text, &self.params, columns) {
                Ok(filter) => {
                    let (sql, values) = filter.render(0);
                    let numbered = (1_u32..).zip(values).map(|(number, value)| (number.to_string(), value.into()));
                    fields.insert("where".to_owned(), sql.into());
                    fields.insert("params".to_owned(), Value::Object(numbered.collect()));
                }
                Err(error) => errors.push(problem(SubsetField::Where.as_str(), error.as_str())),
            }
        }
        match self.order_by.as_deref().map(|text| OrderBy::parse(text, columns)) {
            Some(Ok(order_by)) => drop(fields.insert("order_by".to_owned(), order_by.render().into())),
            Some(Err(error)) => errors.push(problem(SubsetField::OrderBy.as_str(), error.as_str())),
            // Without an order, limit and offset have no defined meaning; Electric requires it too (tests/electric/31).
            None if self.limit.is_some() || self.offset.is_some() => {
                errors.push(problem(SubsetField::OrderBy.as_str(), "is required when limit or offset is present"));
            }
            None => {}
        }
        for (name, rows) in [("limit", self.limit), ("offset", self.offset)] {
            fields.extend(rows.map(|rows| (name.to_owned(), rows.into())));
        }
        if errors.is_empty() { Ok(json!({ "subset": fields }).to_string()) } else { Err(errors) }
    }
}

const PARAMS: &str = "must be an object of strings, numbers and booleans, with numbers from 1 as names";

fn rows(value: &Value) -> Option<u64> {
    value.as_u64().filter(|rows| *rows <= MAX_ROWS)
}

/// Converts a value to a string for Electric; `None` if the type is not allowed or the number may have been rounded.
fn value_text(value: &Value) -> Option<String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(|float| float.abs() >= EXACT) => None,
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
