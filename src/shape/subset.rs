//! The body firewall: what a client says of a subset is read strictly, cut to five fields and written anew.
//!
//! Electric merges the body of a POST over the query: a client's own could replace table, `where` and columns
//! (tests/electric/23 to 25, 125, 126). So a body that goes to Electric is made here, from empty, in the one
//! form that cannot: a `subset` object and nothing beside it. What comes as `subset__…` in a query leaves in the same
//! form, so that Electric's bound on the request line does not count for it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::protocol::{SubsetField, parameter_number};
use super::request::{ParameterError, REPEATED, problem};
use crate::filter::{ClientFilter, OrderBy};
use crate::json;

/// Bytes of a body; a longer one is refused, and not read to its end.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Rows that a subset may ask for or skip; Electric's numbers end where Postgres' `int8` does.
const MAX_ROWS: u64 = i64::MAX as u64;

/// What a client says of a subset: read, and not yet judged.
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
    /// Reads a body: one JSON object of at most [`MAX_BODY_BYTES`] and 128 levels, with the fields of a subset at its
    /// top or in `{"subset":{…}}`, and nothing beside them.
    ///
    /// # Errors
    /// Everything in it that is no field of a subset, or not as that field should be.
    pub fn from_body(body: &[u8]) -> Result<Self, Vec<ParameterError>> {
        let object = Some(body).filter(|body| body.len() <= MAX_BODY_BYTES).map(json::parse_object);
        let Some(Ok(mut members)) = object else {
            return Err(vec![problem("body", "is not one JSON object without duplicate members")]);
        };
        let fields = match members.remove("subset") {
            None => members,
            Some(Value::Object(fields)) if members.is_empty() => fields,
            Some(_) => return Err(vec![problem("subset", "must be an object with nothing beside it")]),
        };
        let mut subset = Self::default();
        let mut errors = Vec::new();
        for (name, value) in fields {
            let read = match SubsetField::from_name(&name) {
                Some(field) => subset.read(field, value),
                None => Err(problem("body", "takes where, params, order_by, limit and offset, nothing else")),
            };
            errors.extend(read.err());
        }
        if errors.is_empty() { Ok(subset) } else { Err(errors) }
    }

    /// Reads a parameter of a query.
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

    /// Reads one value of the filter.
    pub(super) fn read_param(&mut self, number: u32, value: String) -> Result<(), ParameterError> {
        match self.params.insert(number, value) {
            None => Ok(()),
            Some(_) => Err(problem(SubsetField::Params.as_str(), REPEATED)),
        }
    }

    fn read(&mut self, field: SubsetField, value: Value) -> Result<(), ParameterError> {
        let fail = |words| Err(problem(field.as_str(), words));
        match (field, value) {
            // Electric's client sends these beside the SQL that it made of them, with the names that columns have in
            // the client. Electric ignores them, and so they are not for us to read.
            (SubsetField::WhereExpr | SubsetField::OrderByExpr, _) | (_, Value::Null) => {}
            (SubsetField::Where, Value::String(text)) => self.condition = Some(text),
            (SubsetField::OrderBy, Value::String(text)) => self.order_by = Some(text),
            (SubsetField::Where | SubsetField::OrderBy, _) => return fail("must be a text"),
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

    /// The body for Electric. `columns` are those that `where` and `order_by` may name; `None` for all. Parameters are
    /// numbered from 1 whatever the shape's own `where` has: a subset counts for itself (tests/electric/19).
    ///
    /// # Errors
    /// What is wrong with `where` and with `order_by`.
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
            // Rows in no order have no first one (tests/electric/31).
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

const PARAMS: &str = "must be an object of texts, numbers and booleans, its members named by numbers from 1";

fn rows(value: &Value) -> Option<u64> {
    value.as_u64().filter(|rows| *rows <= MAX_ROWS)
}

/// A value as Electric takes it, a text; `None` where it has none, or was rounded on the way.
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
