//! The definition of a shape, in a form that can be compared.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::claim::Malformed;
use super::columns::Columns;
use super::protocol::parameter_number;
use super::request::percent_decode;
use super::table::TableName;

/// Everything that decides which rows a shape has. Names are resolved and defaults filled in, so `==` compares shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The exact schema and name.
    pub table: TableName,
    /// The `where` text, byte for byte; `None` for every row.
    pub predicate: Option<String>,
    /// The values of `$1`, `$2`, ….
    pub params: Vec<String>,
    /// The columns that are sent; `None` for all.
    pub columns: Option<Columns>,
    /// The columns that a filter may name; by default those that are sent.
    pub queryable_columns: Option<Columns>,
    /// Whether an update carries the whole row.
    pub replica: Replica,
    /// Whether existing rows are sent.
    pub log: Log,
}

/// Electric's `replica` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replica {
    /// An update carries the changed columns only.
    #[default]
    Default,
    /// An update carries the whole row and the old values.
    Full,
}

/// Electric's `log` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// Only changes are sent.
    ChangesOnly,
    /// Existing rows are sent, then changes.
    #[default]
    Full,
}

/// The members of the claim. Electric's own example has the first four.
const MEMBERS: [&str; 8] = ["namespace", "table", "where", "columns", "params", "queryable_columns", "replica", "log"];

impl Definition {
    /// Encodes the claim; absent members are null.
    pub(crate) fn to_claim(&self) -> Value {
        let params: Map<_, _> = self.numbered_params().map(|(number, value)| (number, value.into())).collect();
        json!({
            "namespace": self.table.schema(),
            "table": self.table.name(),
            "where": self.predicate,
            "params": if params.is_empty() { Value::Null } else { params.into() },
            "columns": self.columns.as_ref().map(Columns::names),
            "queryable_columns": self.queryable_columns.as_ref().map(Columns::names),
            "replica": (self.replica == Replica::Full).then_some("full"),
            "log": (self.log == Log::ChangesOnly).then_some("changes_only"),
        })
    }

    /// Parses a claim. A null member counts as absent. An unknown member is rejected, because it might restrict the
    /// shape.
    pub(super) fn of_claim(claim: &Value) -> Result<Self, Malformed> {
        let claim = Claim(claim.as_object().ok_or(Malformed)?);
        claim.check_members()?;
        let schema = claim.text("namespace")?;
        let table = TableName::exact(schema, claim.text("table")?.ok_or(Malformed)?).map_err(|_| Malformed)?;
        let columns = claim.columns("columns")?;
        Ok(Self {
            table,
            predicate: claim.text("where")?.map(str::to_owned),
            params: claim.params()?,
            queryable_columns: claim.columns("queryable_columns")?.or_else(|| columns.clone()),
            columns,
            replica: replica(claim.text("replica")?).ok_or(Malformed)?,
            log: Log::of(claim.text("log")?).ok_or(Malformed)?,
        })
    }

    /// Returns every text in the definition.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().chain(&self.queryable_columns);
        let columns = columns.flat_map(|columns| columns.names().iter().map(String::as_str).chain([columns.text()]));
        let table = [self.table.schema(), Some(self.table.name())].into_iter().flatten();
        table.chain(self.predicate.as_deref()).chain(self.params.iter().map(String::as_str)).chain(columns)
    }

    /// Returns the values with their numbers as strings: `"1"`, `"2"`, ….
    pub(crate) fn numbered_params(&self) -> impl Iterator<Item = (String, &str)> {
        self.params.iter().enumerate().map(|(index, value)| ((index + 1).to_string(), value.as_str()))
    }
}

impl Log {
    /// Parses the parameter's value; `None` if Electric does not know the value.
    pub fn of(value: Option<&str>) -> Option<Self> {
        match value {
            None | Some("full") => Some(Self::Full),
            Some("changes_only") => Some(Self::ChangesOnly),
            Some(_) => None,
        }
    }
}

/// The members of a `shape` claim.
struct Claim<'a>(&'a Map<String, Value>);

impl<'a> Claim<'a> {
    fn check_members(&self) -> Result<(), Malformed> {
        let mut members = self.0.iter().filter(|(_, value)| !value.is_null());
        if members.all(|(name, _)| MEMBERS.contains(&name.as_str())) { Ok(()) } else { Err(Malformed) }
    }

    fn member(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Reads a string. An empty one counts as absent, as for Electric. NUL is rejected, because Electric cuts a string
    /// off there.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Malformed> {
        match self.member(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.contains('\0') => {
                Ok(Some(text.as_str()).filter(|text| !text.is_empty()))
            }
            Some(_) => Err(Malformed),
        }
    }

    /// Reads an array of exact names, or a string in the syntax of the `columns` parameter.
    fn columns(&self, name: &str) -> Result<Option<Columns>, Malformed> {
        match self.member(name) {
            Some(Value::Array(names)) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                names.and_then(|names| Columns::exact(&names).ok()).ok_or(Malformed).map(Some)
            }
            _ => self.text(name)?.map(|text| Columns::parse(text).ok_or(Malformed)).transpose(),
        }
    }

    /// Reads `{"1": …, "2": …}` or an array. Each value is a string or an integer.
    fn params(&self) -> Result<Vec<String>, Malformed> {
        match self.member("params") {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(bound).collect(),
            Some(Value::Object(values)) => {
                let numbered =
                    values.iter().map(|(name, value)| Ok((parameter_number(name).ok_or(Malformed)?, bound(value)?)));
                gapless(numbered.collect::<Result<_, _>>()?).ok_or(Malformed)
            }
            Some(_) => Err(Malformed),
        }
    }
}

fn bound(value: &Value) -> Result<String, Malformed> {
    match value {
        Value::String(text) if !text.contains('\0') => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        _ => Err(Malformed),
    }
}

/// Returns the values in the order of their numbers; `None` if the numbers are not 1, 2, … without a gap.
fn gapless(values: BTreeMap<u32, String>) -> Option<Vec<String>> {
    let whole = values.keys().copied().eq((1..).take(values.len()));
    whole.then(|| values.into_values().collect())
}

fn replica(value: Option<&str>) -> Option<Replica> {
    match value {
        None | Some("default") => Some(Replica::Default),
        Some("full") => Some(Replica::Full),
        Some(_) => None,
    }
}

/// The parameters of a client's query that repeat the definition.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    texts: BTreeMap<&'static str, String>,
    params: BTreeMap<u32, String>,
    /// Whether a parameter is repeated, or named `params` but not `params[1]`, `params[2]`, …. If so, there is no
    /// definition.
    ambiguous: bool,
}

/// The parameters of a definition other than `params[n]` and `log`.
const TEXTS: [&str; 5] = ["columns", "queryable_columns", "replica", "table", "where"];

impl Repeated {
    /// Splits a query into the definition's parameters and the rest. Pass the rest to
    /// [`ShapeRequest::parse`](super::ShapeRequest::parse), which rejects every other spelling of these parameters.
    pub(super) fn split(query: &str) -> (Self, String) {
        let mut repeated = Self::default();
        let rest: Vec<_> = query.split('&').filter(|pair| !repeated.take(pair)).collect();
        let rest = rest.join("&");
        (repeated, rest)
    }

    /// Takes a pair if it belongs to the definition, and returns whether it did.
    fn take(&mut self, pair: &str) -> bool {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (percent_decode(name), percent_decode(value)) else { return false };
        if let Some(text) = TEXTS.into_iter().find(|text| *text == name) {
            self.ambiguous |= self.texts.insert(text, value).is_some();
            return true;
        }
        match name.strip_prefix("params") {
            Some(index) if index.is_empty() || index.starts_with('[') => {
                let index = index.strip_prefix('[').and_then(|index| parameter_number(index.strip_suffix(']')?));
                self.ambiguous |= index.is_none_or(|index| self.params.insert(index, value).is_some());
                true
            }
            _ => false,
        }
    }

    /// Builds the definition; `None` if the parameters are ambiguous or invalid.
    pub(super) fn definition(mut self, log: Log) -> Option<Definition> {
        if self.ambiguous {
            return None;
        }
        let columns_sent = Columns::parse_optional(self.text("columns").as_deref())?;
        Some(Definition {
            table: TableName::parse(&self.text("table")?).ok()?,
            predicate: self.text("where"),
            queryable_columns: Columns::parse_optional(self.text("queryable_columns").as_deref())?
                .or_else(|| columns_sent.clone()),
            columns: columns_sent,
            replica: replica(self.text("replica").as_deref())?,
            params: gapless(self.params)?,
            log,
        })
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.texts.remove(name).filter(|text| !text.is_empty())
    }
}
