//! A shape: its definition, its snapshot and its log.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use bytes::Bytes;

use super::database::{Row, Table, TableName, quote};
use super::sql::Condition;

/// The most changes in a shape's log. A shape with more is deleted, as by a restart.
pub(super) const MAX_LOG: usize = 100_000;

/// A position in a shape's log: a transaction, and a position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Offset {
    pub(super) tx: u64,
    pub(super) op: u64,
}

impl Offset {
    /// The end of the snapshot: before every change, after every chunk of the snapshot.
    pub(super) const SNAPSHOT_END: Self = Self { tx: 0, op: u64::MAX };

    pub(super) const fn new(tx: u64, op: u64) -> Self {
        Self { tx, op }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SNAPSHOT_END => f.write_str("0_inf"),
            Self { tx, op } => write!(f, "{tx}_{op}"),
        }
    }
}

/// A value of `offset` in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// `-1`: the snapshot from its start.
    Start,
    /// `now`: the end of the log.
    Now,
    At(Offset),
}

impl FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().map_err(|_| "has invalid format");
        match text {
            "-1" => Ok(Self::Start),
            "now" => Ok(Self::Now),
            "0_inf" => Ok(Self::At(Offset::SNAPSHOT_END)),
            _ => {
                let (tx, op) = text.split_once('_').ok_or("has invalid format")?;
                Ok(Self::At(Offset::new(number(tx)?, number(op)?)))
            }
        }
    }
}

/// What defines a shape. Requests with equal definitions share one shape.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) table: TableName,
    pub(super) condition: Option<Condition>,
    /// Sorted.
    pub(super) columns: Vec<String>,
    pub(super) full_replica: bool,
    pub(super) changes_only: bool,
}

impl Definition {
    /// Returns the same text for equal definitions.
    pub(super) fn canonical(&self) -> String {
        let condition = self.condition.as_ref().map(Condition::canonical);
        format!("{:?} {condition:?} {:?} {} {}", self.table, self.columns, self.full_replica, self.changes_only)
    }

    pub(super) fn selects(&self, column: &str) -> bool {
        self.columns.iter().any(|selected| selected == column)
    }

    pub(super) fn includes(&self, row: &Row) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(row))
    }

    /// Returns the value of `electric-schema`.
    pub(super) fn schema(&self, table: &Table) -> String {
        let mut columns: Vec<_> = table.columns.iter().filter(|column| self.selects(&column.name)).collect();
        columns.sort_by(|left, right| left.name.cmp(&right.name));
        let entries: Vec<_> = columns.iter().map(|c| format!("{}:{}", quote(&c.name), c.schema())).collect();
        format!("{{{}}}", entries.join(","))
    }

    fn relation(&self) -> String {
        format!(r#""relation":[{},{}]"#, quote(&self.table.schema), quote(&self.table.name))
    }

    /// Returns a row of a snapshot. `mark` is the mark of a subset snapshot.
    pub(super) fn snapshot_item(&self, table: &Table, row: &Row, mark: Option<u32>) -> Bytes {
        let value = row.json(|column| self.selects(column));
        let mark = mark.map_or_else(String::new, |mark| format!(r#","snapshot_mark":{mark}"#));
        let (key, relation) = (quote(&table.key(row)), self.relation());
        format!(r#"{{"key":{key},"value":{value},"headers":{{{relation},"operation":"insert"{mark}}}}}"#).into()
    }
}

/// A change as it is in the shape's log, without its position.
#[derive(Debug)]
pub(super) struct LogItem {
    operation: &'static str,
    key: String,
    value: String,
    old_value: Option<String>,
}

impl Definition {
    /// Returns what a change of a row means to this shape; `None` if it is nothing.
    pub(super) fn change(
        &self,
        table: &Table,
        key: &str,
        before: Option<&Row>,
        after: Option<&Row>,
    ) -> Option<LogItem> {
        let before = before.filter(|row| self.includes(row));
        let after = after.filter(|row| self.includes(row));
        let selected = |column: &str| self.selects(column);
        let primary_key = table.primary_key();
        let item = |operation, value| LogItem { operation, key: quote(key), value, old_value: None };
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some(item("insert", after.json(selected))),
            (Some(before), None) if self.full_replica => Some(item("delete", before.json(selected))),
            (Some(before), None) => Some(item("delete", before.json(|column| primary_key.contains(&column)))),
            (Some(before), Some(after)) => {
                let changed = |column: &str| self.selects(column) && before.text(column) != after.text(column);
                if !self.columns.iter().any(|column| changed(column)) {
                    return None;
                }
                let sent = |column: &str| changed(column) || primary_key.contains(&column);
                let value = if self.full_replica { after.json(selected) } else { after.json(sent) };
                let old_value = self.full_replica.then(|| before.json(changed));
                Some(LogItem { old_value, ..item("update", value) })
            }
        }
    }

    /// Returns `item` as JSON, with its position in the log.
    pub(super) fn log_item(&self, item: &LogItem, offset: Offset, txid: u64, last: bool) -> Bytes {
        let LogItem { operation, key, value, old_value } = item;
        let (last, relation) = (if last { r#""last":true,"# } else { "" }, self.relation());
        let place = format!(r#""lsn":"{}","txids":[{txid}],"op_position":{}"#, offset.tx, offset.op);
        let old = old_value.as_ref().map_or_else(String::new, |old| format!(r#","old_value":{old}"#));
        let headers = format!(r#"{{{last}{relation},"operation":"{operation}",{place}}}"#);
        format!(r#"{{"value":{value},"key":{key},"headers":{headers}{old}}}"#).into()
    }
}

/// A part of a snapshot or a log.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) items: Vec<Bytes>,
    pub(super) to: Offset,
    /// Whether nothing follows `to`.
    pub(super) up_to_date: bool,
}

/// A live shape.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) handle: String,
    pub(super) definition: Definition,
    /// The snapshot; each part is one response. The last one ends with `snapshot-end`.
    snapshot: Vec<Vec<Bytes>>,
    log: Vec<(Offset, Bytes)>,
}

impl Shape {
    /// Creates the shape, with a snapshot of the current table.
    pub(super) fn new(definition: Definition, table: &Table, chunk_bytes: usize, micros: u64, xmin: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        definition.canonical().hash(&mut hasher);
        // Electric's number is an Erlang phash2: 27 bits, the same for the same definition.
        let handle = format!("{}-{micros}", hasher.finish() % (1 << 27));
        let rows = table.rows().filter(|row| !definition.changes_only && definition.includes(row));
        let mut snapshot = vec![Vec::new()];
        let mut size = 0;
        for row in rows {
            let item = definition.snapshot_item(table, row, None);
            if size >= chunk_bytes {
                (size, _) = (0, snapshot.push(Vec::new()));
            }
            size += item.len() + 1;
            push_last(&mut snapshot, item);
        }
        let end =
            format!(r#"{{"headers":{{"control":"snapshot-end","xip_list":[],"xmax":"{xmin}","xmin":"{xmin}"}}}}"#);
        push_last(&mut snapshot, end.into());
        Self { handle, definition, snapshot, log: Vec::new() }
    }

    pub(super) fn append(&mut self, offset: Offset, item: Bytes) {
        self.log.push((offset, item));
    }

    pub(super) const fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Returns the offset of the last change.
    pub(super) fn last(&self) -> Offset {
        self.log.last().map_or(Offset::SNAPSHOT_END, |(offset, _)| *offset)
    }

    /// Returns the first part of the snapshot.
    pub(super) fn start(&self) -> Slice {
        let items = self.snapshot.first().cloned().unwrap_or_default();
        Slice { items, to: Offset::new(0, 0), up_to_date: false }
    }

    /// Returns what follows `from`: a part of the snapshot, or changes up to `chunk_bytes`.
    pub(super) fn after(&self, from: Offset, chunk_bytes: usize) -> Slice {
        let next = from.op.saturating_add(1);
        if let Some(items) = usize::try_from(next).ok().filter(|_| from.tx == 0).and_then(|at| self.snapshot.get(at)) {
            return Slice { items: items.clone(), to: Offset::new(0, next), up_to_date: false };
        }
        let start = self.log.partition_point(|(offset, _)| *offset <= from);
        let mut size = 0;
        let mut slice = Slice { items: Vec::new(), to: self.last().max(from), up_to_date: true };
        for (offset, item) in &self.log[start..] {
            if size >= chunk_bytes {
                slice.up_to_date = false;
                break;
            }
            size += item.len() + 1;
            slice.items.push(item.clone());
            slice.to = *offset;
        }
        slice
    }
}

fn push_last(parts: &mut [Vec<Bytes>], item: Bytes) {
    if let Some(last) = parts.last_mut() {
        last.push(item);
    }
}
