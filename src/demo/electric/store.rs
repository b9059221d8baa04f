//! The database and its shapes: one lock, one log of transactions.

use std::collections::HashMap;
use std::time::Instant;

use super::database::{Change, ChangeError, Database, Effect, TableName};
use super::shape::{Definition, LogItem, MAX_LOG, Offset, Shape, Slice};
use crate::clock::{Clock, SystemClock};

/// The most shapes at the same time. The oldest is deleted when another one is created.
const MAX_SHAPES: usize = 10_000;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) database: Database,
    /// By canonical definition.
    shapes: HashMap<String, Shape>,
    chunk_bytes: usize,
    /// The position of the last transaction, `global_last_seen_lsn`.
    pub(super) lsn: u64,
    /// The number of the next transaction.
    pub(super) next_txid: u64,
    started_micros: u64,
    started: Instant,
    last_micros: u64,
}

impl Store {
    pub(super) fn new(chunk_bytes: usize) -> Self {
        Self {
            database: Database::default(),
            shapes: HashMap::new(),
            chunk_bytes,
            lsn: 27_660_408,
            next_txid: 757,
            started_micros: SystemClock.now().as_secs() * 1_000_000,
            started: Instant::now(),
            last_micros: 0,
        }
    }

    /// Returns the shape of this definition, and creates it if needed; `None` if its table does not exist.
    pub(super) fn shape(&mut self, definition: &Definition) -> Option<&Shape> {
        let canonical = definition.canonical();
        if !self.shapes.contains_key(&canonical) {
            self.make_room();
            let micros = self.next_micros();
            let table = self.database.table(&definition.table)?;
            let shape = Shape::new(definition.clone(), table, self.chunk_bytes, micros, self.next_txid);
            self.shapes.insert(canonical.clone(), shape);
        }
        self.shapes.get(&canonical)
    }

    /// Returns the shape of this definition, if it exists.
    pub(super) fn existing(&self, definition: &Definition) -> Option<&Shape> {
        self.shapes.get(&definition.canonical())
    }

    pub(super) fn by_handle(&self, handle: &str) -> Option<&Shape> {
        self.shapes.values().find(|shape| shape.handle == handle)
    }

    /// Returns what follows `from` in a shape; `None` if the shape does not exist.
    pub(super) fn after(&self, handle: &str, definition: &Definition, from: Offset) -> Option<Slice> {
        let shape = self.existing(definition).filter(|shape| shape.handle == handle)?;
        Some(shape.after(from, self.chunk_bytes))
    }

    /// Deletes a shape. Returns whether it existed.
    pub(super) fn delete_shape(&mut self, handle: &str) -> bool {
        let before = self.shapes.len();
        self.shapes.retain(|_, shape| shape.handle != handle);
        self.shapes.len() < before
    }

    /// Deletes all shapes of a table.
    pub(super) fn drop_shapes_of(&mut self, table: &TableName) {
        self.shapes.retain(|_, shape| shape.definition.table != *table);
    }

    /// Makes `changes` in one transaction, and returns its position. If one fails, those before it remain.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<u64, ChangeError> {
        let txid = self.next_txid;
        self.next_txid += 1;
        // Any increase works. Postgres's is the size of what it wrote.
        self.lsn += 48 + 64 * changes.len() as u64;
        let mut effects = Vec::new();
        let mut outcome = Ok(self.lsn);
        for change in changes {
            match self.database.apply(change) {
                Ok(effect) => effects.push(effect),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        for effect in &effects {
            if let Effect::Truncated(table) = effect {
                self.drop_shapes_of(table);
            }
        }
        self.append(&effects, txid);
        outcome
    }

    fn append(&mut self, effects: &[Effect], txid: u64) {
        for shape in self.shapes.values_mut() {
            let items = items(&self.database, &shape.definition, effects);
            let count = items.len();
            for (at, (op, item)) in items.into_iter().enumerate() {
                let offset = Offset::new(self.lsn, op);
                let json = shape.definition.log_item(&item, offset, txid, at + 1 == count);
                shape.append(offset, json);
            }
        }
        self.shapes.retain(|_, shape| shape.log_len() <= MAX_LOG);
    }

    fn make_room(&mut self) {
        if self.shapes.len() < MAX_SHAPES {
            return;
        }
        let made = |shape: &Shape| shape.handle.split_once('-').and_then(|(_, micros)| micros.parse::<u64>().ok());
        let oldest = self.shapes.iter().min_by_key(|(_, shape)| made(shape)).map(|(canonical, _)| canonical.clone());
        oldest.and_then(|canonical| self.shapes.remove(&canonical));
    }

    /// Returns the time in microseconds, never the same twice, for handles.
    fn next_micros(&mut self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or_default();
        self.last_micros = (self.started_micros + elapsed).max(self.last_micros + 1);
        self.last_micros
    }
}

/// Returns what a transaction means to a shape, with positions. Electric counts every operation twice.
fn items(database: &Database, definition: &Definition, effects: &[Effect]) -> Vec<(u64, LogItem)> {
    let mut items = Vec::new();
    for (at, effect) in effects.iter().enumerate() {
        let Effect::Row { table, key, before, after } = effect else {
            continue;
        };
        let Some(known) = database.table(table).filter(|_| *table == definition.table) else {
            continue;
        };
        let item = definition.change(known, key, before.as_ref(), after.as_ref());
        items.extend(item.map(|item| (2 * at as u64, item)));
    }
    items
}
