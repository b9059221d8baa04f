//! The parameters of a shape request, checked in Electric's order and with Electric's messages.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::database::{Database, Table, TableName, identifiers, quote};
use super::shape::{Definition, Position};
use super::sql::{Condition, Kind, OrderBy, Scope, SqlError};

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400, with the JSON of `errors`.
    Invalid(String),
    /// 500.
    Crash,
}

impl Refusal {
    fn field(name: &str, message: &str) -> Self {
        Self::Invalid(format!("{{{}:[{}]}}", quote(name), quote(message)))
    }

    fn sql(name: &str, error: SqlError) -> Self {
        match error {
            SqlError::Invalid(message) => Self::field(name, &message),
            SqlError::Crash => Self::Crash,
        }
    }

    fn in_subset(self) -> Self {
        match self {
            Self::Invalid(errors) => Self::Invalid(format!(r#"{{"subset":{errors}}}"#)),
            Self::Crash => Self::Crash,
        }
    }
}

/// A requested subset snapshot.
#[derive(Debug)]
pub(super) struct Subset {
    pub(super) condition: Option<Condition>,
    pub(super) order_by: Option<OrderBy>,
    pub(super) limit: Option<usize>,
    pub(super) offset: usize,
}

/// A shape request that passed every check.
#[derive(Debug)]
pub(super) struct ShapeParams {
    pub(super) definition: Definition,
    pub(super) position: Position,
    /// Empty if the offset makes it meaningless.
    pub(super) handle: String,
    pub(super) live: bool,
    pub(super) sse: bool,
    pub(super) cursor: Option<u64>,
    pub(super) subset: Option<Subset>,
}

/// The target of a DELETE: a definition, a handle, or both.
#[derive(Debug)]
pub(super) struct DeleteParams {
    pub(super) definition: Option<Definition>,
    pub(super) handle: Option<String>,
}

impl ShapeParams {
    /// Checks `params` against the existing tables.
    pub(super) fn check(params: &Map<String, Value>, database: &Database) -> Result<Self, Refusal> {
        let fields = Fields(params);
        fields.cast()?;
        let offset = fields.text("offset")?.ok_or_else(|| Refusal::field("offset", "can't be blank"))?;
        let position: Position = offset.parse().map_err(|message| Refusal::field("offset", message))?;
        let live = fields.flag("live");
        let handle = match position {
            Position::Start | Position::Now => String::new(),
            Position::At(_) => {
                fields.text("handle")?.ok_or_else(|| Refusal::field("handle", "can't be blank when offset != -1"))?
            }
        };
        match position {
            Position::Start if live => return Err(Refusal::field("live", "can't be true when offset == -1")),
            Position::Now if live => return Err(Refusal::field("live", "can't be true when offset is 'now'")),
            Position::Start | Position::Now | Position::At(_) => {}
        }
        let sse = fields.flag("live_sse") || fields.flag("experimental_live_sse");
        if sse && !live {
            return Err(Refusal::field("live_sse", "can't be true unless live is also true"));
        }
        let (definition, table) = fields.definition(database)?;
        let subset = fields.subset(table).map_err(Refusal::in_subset)?;
        let cursor = fields.0.get("cursor").and_then(Value::as_str).and_then(|cursor| cursor.parse().ok());
        Ok(Self { definition, position, handle, live, sse, cursor, subset })
    }
}

impl DeleteParams {
    /// Checks the parameters of a DELETE.
    pub(super) fn check(params: &Map<String, Value>, database: &Database) -> Result<Self, Refusal> {
        let fields = Fields(params);
        let handle = fields.text("handle")?;
        if fields.text("table")?.is_some() {
            let (definition, _) = fields.definition(database)?;
            return Ok(Self { definition: Some(definition), handle });
        }
        match handle {
            Some(_) => Ok(Self { definition: None, handle }),
            None => Err(Refusal::field("handle", "can't be blank when shape definition is missing")),
        }
    }
}

#[derive(Clone, Copy)]
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// Returns a text. An empty one counts as absent.
    fn text(self, name: &str) -> Result<Option<String>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::field(name, "is invalid")),
        }
    }

    /// Returns whether a flag is set: any value but `false`, even an empty one.
    fn flag(self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(value) => value.as_str() != Some("false"),
        }
    }

    fn number(self, name: &str, least: usize, message: &str) -> Result<Option<usize>, Refusal> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.parse::<i64>().ok(),
            Some(value) => value.as_i64(),
        };
        let number = number.ok_or_else(|| Refusal::field(name, "is invalid"))?;
        let number = usize::try_from(number).ok().filter(|number| *number >= least);
        number.map(Some).ok_or_else(|| Refusal::field(name, message))
    }

    /// Checks the form of all parameters. Electric reports these errors first.
    fn cast(self) -> Result<(), Refusal> {
        for name in ["table", "offset", "handle", "where"] {
            self.text(name)?;
        }
        self.choice("replica", &["default", "full"])?;
        self.choice("log", &["full", "changes_only"])?;
        self.columns("columns")?;
        self.columns("queryable_columns")?;
        self.params()?;
        Ok(())
    }

    fn choice(self, name: &str, choices: &[&str]) -> Result<Option<String>, Refusal> {
        let choice = self.text(name)?;
        match choice {
            Some(choice) if !choices.contains(&choice.as_str()) => Err(Refusal::field(name, "is invalid")),
            choice => Ok(choice),
        }
    }

    /// Returns a list, given as a list or separated by commas.
    fn columns(self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let invalid = || Refusal::field(name, "is invalid");
        match self.0.get(name) {
            Some(Value::Array(items)) if !items.is_empty() => {
                let items = items.iter().map(|item| item.as_str().map(str::to_owned));
                items.collect::<Option<_>>().ok_or_else(invalid).map(Some)
            }
            _ => match self.text(name)? {
                Some(text) => identifiers(&text, ',').map(Some).map_err(|message| Refusal::field(name, &message)),
                None => Ok(None),
            },
        }
    }

    /// Returns `params[1]=..`. Only texts are allowed, and a JSON text is not.
    fn params(self) -> Result<BTreeMap<u32, String>, Refusal> {
        match self.0.get("params") {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(BTreeMap::new()),
            Some(Value::Object(params)) => {
                let texts = params.iter().map(|(key, value)| value.as_str().map(|text| (key.clone(), text.to_owned())));
                let texts = texts.collect::<Option<Vec<_>>>();
                numbered(texts.ok_or_else(|| Refusal::field("params", "is invalid"))?)
            }
            Some(_) => Err(Refusal::field("params", "is invalid")),
        }
    }

    fn definition(self, database: &Database) -> Result<(Definition, &Table), Refusal> {
        let text = self.text("table")?.ok_or_else(|| Refusal::field("table", "can't be blank"))?;
        let name = TableName::parse(&text).map_err(|message| Refusal::field("table", &message))?;
        let table = database.table(&name).ok_or_else(|| {
            let hint = "If the table name contains capitals or special characters you must quote it.";
            Refusal::field("table", &format!("Table {} does not exist. {hint}", name.quoted()))
        })?;
        let condition = match self.text("where")? {
            Some(text) => Some(self.condition(&text, &scope(table, None, self.params()?))?),
            None => None,
        };
        let mut columns = self.selected(table)?;
        columns.sort();
        columns.dedup();
        let full_replica = self.text("replica")?.as_deref() == Some("full");
        let changes_only = self.text("log")?.as_deref() == Some("changes_only");
        Ok((Definition { table: name, condition, columns, full_replica, changes_only }, table))
    }

    fn condition(self, text: &str, scope: &Scope) -> Result<Condition, Refusal> {
        Condition::parse(text, scope).map_err(|error| Refusal::sql("where", error))
    }

    fn selected(self, table: &Table) -> Result<Vec<String>, Refusal> {
        let known: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let queryable = self.columns("queryable_columns")?;
        let Some(columns) = self.columns("columns")? else {
            return Ok(known.into_iter().map(str::to_owned).collect());
        };
        let queryable = queryable.unwrap_or_else(|| known.iter().map(|name| (*name).to_owned()).collect());
        let found = |column: &&String| known.contains(&column.as_str()) && queryable.contains(column);
        let missing: Vec<_> = columns.iter().filter(|column| !found(column)).map(String::as_str).collect();
        if !missing.is_empty() {
            let message = format!("The following columns are not found on the table: {}", missing.join(", "));
            return Err(Refusal::field("columns", &message));
        }
        let needed = table.primary_key();
        let missing: Vec<_> = needed.into_iter().filter(|key| columns.iter().all(|column| column != key)).collect();
        if !missing.is_empty() {
            let text = "The list of columns must include all primary key columns, missing: ";
            return Err(Refusal::field("columns", &(text.to_owned() + &missing.join(", "))));
        }
        Ok(columns)
    }

    /// Returns the subset. `subset__where=..` and `subset[where]=..` mean the same.
    fn subset(self, table: &Table) -> Result<Option<Subset>, Refusal> {
        let flat =
            self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix("subset__")?.to_owned(), value.clone())));
        let mut parts: Map<String, Value> = flat.collect();
        match self.0.get("subset") {
            Some(Value::Object(nested)) => parts.extend(nested.clone()),
            Some(_) => return Err(Refusal::field("subset", "is invalid")),
            None if parts.is_empty() => return Ok(None),
            None => {}
        }
        let parts = Fields(&parts);
        let limit = parts.number("limit", 1, "must be greater than 0")?;
        let offset = parts.number("offset", 0, "must be greater than or equal to 0")?;
        let order_by = parts.text("order_by")?;
        if order_by.is_none() && (limit.is_some() || offset.is_some()) {
            return Err(Refusal::field("order_by", "order_by is required when limit or offset is present"));
        }
        let queryable = self.columns("queryable_columns")?;
        let scope = scope(table, queryable.as_deref(), parts.subset_params()?);
        let order_by = order_by.map(|text| OrderBy::parse(&text, &scope)).transpose();
        let order_by = order_by.map_err(|error| Refusal::sql("order_by", error))?;
        let condition = parts.text("where")?.map(|text| self.condition(&text, &scope)).transpose()?;
        Ok(Some(Subset { condition, order_by, limit, offset: offset.unwrap_or_default() }))
    }

    /// Returns the parameters of a subset. They may be a JSON text; values of other types become texts.
    fn subset_params(self) -> Result<BTreeMap<u32, String>, Refusal> {
        let parsed = match self.0.get("params") {
            Some(Value::String(text)) if text.is_empty() => Value::Null,
            Some(Value::String(text)) => {
                serde_json::from_str(text).map_err(|_| Refusal::field("params", "params must be valid JSON"))?
            }
            params => params.cloned().unwrap_or_default(),
        };
        match parsed {
            Value::Null => Ok(BTreeMap::new()),
            Value::Object(params) => {
                let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                numbered(params.into_iter().map(|(key, value)| (key, text(value))).collect())
            }
            _ => Err(Refusal::field("params", "params must be a JSON object")),
        }
    }
}

fn numbered(params: Vec<(String, String)>) -> Result<BTreeMap<u32, String>, Refusal> {
    let count = params.len();
    let numbers = params.into_iter().map(|(key, value)| key.parse::<u32>().map(|number| (number, value)));
    let numbers = numbers.collect::<Result<BTreeMap<_, _>, _>>();
    let numbers = numbers.map_err(|_| Refusal::field("params", "Parameters can only use numbers as keys"))?;
    if numbers.len() == count && numbers.keys().zip(1..).all(|(number, expected)| *number == expected) {
        return Ok(numbers);
    }
    Err(Refusal::field("params", "Parameters must be numbered sequentially, starting from 1"))
}

/// Returns the columns that a condition may name, restricted to `only` if it is given.
fn scope(table: &Table, only: Option<&[String]>, params: BTreeMap<u32, String>) -> Scope {
    let allowed = |name: &String| only.is_none_or(|only| only.contains(name));
    let columns = table.columns.iter().filter(|column| allowed(&column.name));
    let columns = columns.map(|column| (column.name.clone(), Kind::of(&column.full_type())));
    Scope { columns: columns.collect(), params }
}
