//! Tables in memory, and changes to them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

/// A column, with what Electric says about it in `electric-schema`.
#[derive(Clone, Debug)]
pub struct Column {
    pub(super) name: String,
    pg_type: String,
    not_null: bool,
    pub(super) pk_index: Option<u32>,
    modifiers: Vec<(String, u32)>,
}

impl Column {
    /// Makes a column of a Postgres type (`int4`, `text`, ...) that may be NULL.
    pub fn new(name: &str, pg_type: &str) -> Self {
        let (name, pg_type) = (name.to_owned(), pg_type.to_owned());
        Self { name, pg_type, not_null: false, pk_index: None, modifiers: Vec::new() }
    }

    /// Forbids NULL.
    #[must_use]
    pub fn not_null(self) -> Self {
        Self { not_null: true, ..self }
    }

    /// Puts it at this position of the primary key.
    #[must_use]
    pub fn primary_key(self, index: u32) -> Self {
        Self { not_null: true, pk_index: Some(index), ..self }
    }

    /// Adds a modifier such as `max_length`, `precision`, `scale` or `dims`.
    #[must_use]
    pub fn modifier(mut self, name: &str, value: u32) -> Self {
        self.modifiers.push((name.to_owned(), value));
        self
    }

    /// Returns the type, with `[]` for an array.
    pub(super) fn full_type(&self) -> String {
        let array = self.modifiers.iter().any(|(name, _)| name == "dims");
        self.pg_type.clone() + if array { "[]" } else { "" }
    }

    /// Returns its entry in `electric-schema`.
    pub(super) fn schema(&self) -> String {
        let mut entry = format!(r#"{{"type":{}"#, quote(&self.pg_type));
        for (name, value) in &self.modifiers {
            entry += &format!(",{}:{value}", quote(name));
        }
        if self.not_null {
            entry += r#","not_null":true"#;
        }
        if let Some(index) = self.pk_index {
            entry += &format!(r#","pk_index":{index}"#);
        }
        entry + "}"
    }
}

/// Returns `text` as a JSON string.
pub(super) fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// A table's schema and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

impl TableName {
    /// Parses `items`, `public.items` or `"public"."items"`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = identifiers(text, '.')?;
        match (parts.pop(), parts.pop(), parts.pop()) {
            (Some(name), None, None) => Ok(Self { schema: "public".to_owned(), name }),
            (Some(name), Some(schema), None) => Ok(Self { schema, name }),
            _ => Err("Invalid table name".to_owned()),
        }
    }

    /// Returns `"public"."items"`, as in keys and messages.
    pub(super) fn quoted(&self) -> String {
        format!("\"{}\".\"{}\"", self.schema, self.name)
    }
}

/// Splits a dotted list of identifiers. Unquoted ones become lower case, quoted ones stay as they are.
pub(super) fn identifiers(text: &str, separator: char) -> Result<Vec<String>, String> {
    let (mut list, mut current, mut inside, mut quoted) = (Vec::new(), String::new(), false, false);
    let mut finish = |current: &mut String, quoted: &mut bool| {
        let name = std::mem::take(current);
        let name = if *quoted { name } else { name.trim().to_lowercase() };
        *quoted = false;
        if name.is_empty() {
            return Err("Invalid zero-length identifier".to_owned());
        }
        list.push(name);
        Ok(())
    };
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '"' if inside && rest.peek() == Some(&'"') => current.extend(rest.next()),
            '"' => (inside, quoted) = (!inside, true),
            _ if next == separator && !inside => finish(&mut current, &mut quoted)?,
            _ => current.push(next),
        }
    }
    if inside {
        return Err(format!("Invalid unquoted identifier contains special characters: {text}"));
    }
    finish(&mut current, &mut quoted)?;
    Ok(list)
}

/// A row: each value as text, as Electric sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row(BTreeMap<String, Option<String>>);

impl Row {
    /// Returns a value as text; `None` is NULL.
    pub(super) fn text(&self, column: &str) -> Option<&str> {
        self.0.get(column).and_then(Option::as_deref)
    }

    /// Returns the columns that `wanted` names, as a JSON object with sorted keys.
    pub(super) fn json(&self, wanted: impl Fn(&str) -> bool) -> String {
        let entries = self.0.iter().filter(|(name, _)| wanted(name));
        let text = |value: &Option<String>| value.as_deref().map_or_else(|| "null".to_owned(), quote);
        let entries: Vec<_> = entries.map(|(name, value)| format!("{}:{}", quote(name), text(value))).collect();
        format!("{{{}}}", entries.join(","))
    }
}

/// A change in a transaction. Rows are JSON objects whose values are read as text.
#[derive(Clone, Debug)]
pub enum Change {
    /// Inserts a row. Missing columns are NULL.
    Insert(String, Value),
    /// Updates the row with this primary key.
    Update(String, Value),
    /// Deletes the row with this primary key.
    Delete(String, Value),
    /// Deletes all rows, and every shape of the table.
    Truncate(String),
}

impl Change {
    fn table(&self) -> &str {
        match self {
            Self::Insert(table, _) | Self::Update(table, _) | Self::Delete(table, _) | Self::Truncate(table) => table,
        }
    }
}

/// Why a change fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A row with this key exists.
    #[error("there is a row with the key {0}")]
    Duplicate(String),
    /// The row has no primary key, or is not a JSON object.
    #[error("the row has no primary key")]
    NoKey,
    /// There is no such column.
    #[error("no column {0}")]
    NoSuchColumn(String),
    /// There is no row with this key.
    #[error("no row with the key {0}")]
    NoSuchRow(String),
    /// There is no such table.
    #[error("no table {0}")]
    NoSuchTable(String),
}

/// What a change did to a table.
#[derive(Debug)]
pub(super) enum Effect {
    Row { table: TableName, key: String, before: Option<Row>, after: Option<Row> },
    Truncated(TableName),
}

/// A table. Its rows have the order in which Postgres scans a fresh heap: an updated row moves to the end.
#[derive(Debug)]
pub(super) struct Table {
    name: TableName,
    pub(super) columns: Vec<Column>,
    rows: BTreeMap<u64, Row>,
    places: HashMap<String, u64>,
    next_place: u64,
}

impl Table {
    pub(super) fn new(name: TableName, columns: Vec<Column>) -> Self {
        Self { name, columns, rows: BTreeMap::new(), places: HashMap::new(), next_place: 0 }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub(super) fn primary_key(&self) -> Vec<&str> {
        let mut columns: Vec<_> =
            self.columns.iter().filter_map(|c| c.pk_index.map(|at| (at, c.name.as_str()))).collect();
        columns.sort_unstable();
        columns.into_iter().map(|(_, name)| name).collect()
    }

    /// Returns `"public"."items"/"1"`, which identifies a row in messages.
    pub(super) fn key(&self, row: &Row) -> String {
        let parts =
            self.primary_key().into_iter().map(|column| format!("/\"{}\"", row.text(column).unwrap_or_default()));
        self.name.quoted() + &parts.collect::<String>()
    }

    fn apply(&mut self, change: &Change) -> Result<Effect, ChangeError> {
        let (row, change) = match change {
            Change::Truncate(_) => {
                self.rows.clear();
                self.places.clear();
                return Ok(Effect::Truncated(self.name.clone()));
            }
            Change::Insert(_, row) | Change::Update(_, row) | Change::Delete(_, row) => (self.row(row)?, change),
        };
        let key = self.key(&row);
        let place = self.places.get(&key).copied();
        let before = place.and_then(|place| self.rows.get(&place)).cloned();
        let after = match (change, &before) {
            (Change::Insert(..), Some(_)) => return Err(ChangeError::Duplicate(key)),
            (Change::Update(..) | Change::Delete(..), None) => return Err(ChangeError::NoSuchRow(key)),
            (Change::Insert(..), None) => Some(self.completed(row)),
            (Change::Update(..), Some(before)) => Some(Row(before.0.clone().into_iter().chain(row.0).collect())),
            (Change::Delete(..) | Change::Truncate(_), _) => None,
        };
        self.replace(&key, place, after.clone());
        Ok(Effect::Row { table: self.name.clone(), key, before, after })
    }

    fn replace(&mut self, key: &str, place: Option<u64>, after: Option<Row>) {
        if let Some(place) = place {
            self.rows.remove(&place);
            self.places.remove(key);
        }
        if let Some(row) = after {
            self.rows.insert(self.next_place, row);
            self.places.insert(key.to_owned(), self.next_place);
            self.next_place += 1;
        }
    }

    fn row(&self, row: &Value) -> Result<Row, ChangeError> {
        let values = row.as_object().ok_or(ChangeError::NoKey)?;
        self.known_columns(values)?;
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let row = Row(values.iter().map(|(name, value)| (name.clone(), text(value))).collect());
        let keyed = self.primary_key().iter().all(|column| row.text(column).is_some());
        if keyed { Ok(row) } else { Err(ChangeError::NoKey) }
    }

    fn known_columns(&self, values: &Map<String, Value>) -> Result<(), ChangeError> {
        let unknown = values.keys().find(|name| self.columns.iter().all(|column| column.name != **name));
        unknown.map_or(Ok(()), |name| Err(ChangeError::NoSuchColumn(name.clone())))
    }

    fn completed(&self, mut row: Row) -> Row {
        for column in &self.columns {
            row.0.entry(column.name.clone()).or_default();
        }
        row
    }
}

/// All tables.
#[derive(Debug, Default)]
pub(super) struct Database(BTreeMap<TableName, Table>);

impl Database {
    pub(super) fn create(&mut self, name: TableName, columns: Vec<Column>) {
        self.0.insert(name.clone(), Table::new(name, columns));
    }

    pub(super) fn table(&self, name: &TableName) -> Option<&Table> {
        self.0.get(name)
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<Effect, ChangeError> {
        let unknown = || ChangeError::NoSuchTable(change.table().to_owned());
        let name = TableName::parse(change.table()).map_err(|_| unknown())?;
        self.0.get_mut(&name).ok_or_else(unknown)?.apply(change)
    }
}
