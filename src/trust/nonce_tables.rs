//! The SQL of nonces (`core::admission::nonces`): one table for each group of buckets, named after it.
//!
//! A table has no index but its key, so an admission writes one row, and it is dropped as a whole, which storage bills
//! nothing for. So a nonce costs one row in its life.
//!
//! An older version kept all nonces in one table. What is still in that counts like the others, is deleted when it is
//! due, and the table goes with its last row.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;

use serde_json::Value;
use worker::Result;

use super::tables::{number, unexpected};
use crate::core::admission::Rate;
use crate::core::admission::nonces::{LIVE_BUCKETS, buckets_of, group_of};
use crate::core::admission::tables::NonceRow;
use crate::sql::{Sql, hex, int};

/// The names of the tables begin with this and end with the group.
const PREFIX: &str = "nonces_";
/// The one table of an older version.
const OLD: &str = "nonces";
/// `rate`, where that is not the usual one.
const RECEIPTS: &str = "receipts";
/// The parameters of `attempt_of`: the hash, and the live buckets one by one, so that each is a seek and none a scan.
const LOOK_UP: &str = "hash = unhex(?1) AND bucket IN (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
const _: () = assert!(LIVE_BUCKETS == 12, "LOOK_UP names this many buckets");

/// Which tables there are.
pub struct NonceTables {
    groups: RefCell<Vec<u64>>,
    has_old: Cell<bool>,
}

impl NonceTables {
    /// Looks which there are.
    ///
    /// # Errors
    /// The storage's. So for all.
    pub fn open(sql: &Sql) -> Result<Self> {
        let query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'nonces%'";
        let tables = Self {
            groups: RefCell::default(),
            has_old: Cell::new(false),
        };
        for row in sql.rows(query, &[])? {
            let [Value::String(name)] = row.as_slice() else {
                continue;
            };
            if name == OLD {
                tables.has_old.set(true);
            } else if let Some(group) = name.strip_prefix(PREFIX).and_then(|group| group.parse().ok()) {
                tables.groups.borrow_mut().push(group);
            }
        }
        tables.groups.borrow_mut().sort_unstable();
        Ok(tables)
    }

    /// What each admission after this moment counted against, and when it was.
    pub fn admissions(&self, sql: &Sql, seen_after_ms: u64) -> Result<Vec<(Rate, u64)>> {
        let mut admissions = Vec::new();
        for (name, rate) in self.names() {
            let query = format!("SELECT seen_at_ms, {rate} FROM {name} WHERE seen_at_ms > ?");
            for row in sql.rows(&query, &[int(seen_after_ms)])? {
                match row.as_slice() {
                    [seen_at_ms, Value::Null] => admissions.push((Rate::Requests, number(seen_at_ms)?)),
                    [seen_at_ms, Value::String(rate)] if rate == RECEIPTS => {
                        admissions.push((Rate::Receipts, number(seen_at_ms)?));
                    }
                    // A later version counted it against something that this one does not know.
                    _ => {}
                }
            }
        }
        Ok(admissions)
    }

    /// The lowest bucket that may have a row.
    pub fn oldest_bucket(&self, sql: &Sql) -> Result<Option<u64>> {
        let group = self.groups.borrow().first().map(|group| buckets_of(*group).0);
        let old = match self.has_old.get() {
            true => bucket(sql, "SELECT MIN(bucket) FROM nonces", vec![])?,
            false => None,
        };
        Ok([group, old].into_iter().flatten().min())
    }

    /// A query for the attempt for which a nonce was accepted. Its parameters are those of `look_up`.
    pub fn attempt_of(&self, buckets: &RangeInclusive<u64>) -> String {
        let groups = group_of(*buckets.start())..=group_of(*buckets.end());
        let of_groups = self.groups.borrow();
        let live = of_groups.iter().filter(|group| groups.contains(group));
        let mut names: Vec<String> = live.map(|group| format!("{PREFIX}{group}")).collect();
        names.extend(self.has_old.get().then(|| OLD.to_owned()));
        let look_ups: Vec<String> = names
            .iter()
            .map(|name| format!("SELECT hex(attempt) AS attempt FROM {name} WHERE {LOOK_UP}"))
            .collect();
        match look_ups.is_empty() {
            true => "NULL".to_owned(),
            false => format!("(SELECT attempt FROM ({}) LIMIT 1)", look_ups.join(" UNION ALL ")),
        }
    }

    /// The values that a query of `attempt_of` takes.
    pub fn look_up(hash: &[u8; 32], buckets: RangeInclusive<u64>) -> Vec<Value> {
        std::iter::once(hex(hash)).chain(buckets.map(int)).collect()
    }

    /// Keeps a nonce.
    pub fn insert(&self, sql: &Sql, row: &NonceRow) -> Result<()> {
        let group = group_of(row.bucket);
        let at = self.groups.borrow().binary_search(&group);
        if let Err(at) = at {
            sql.run(&schema(group), &[])?;
            self.groups.borrow_mut().insert(at, group);
        }
        let query = format!(
            "INSERT INTO {PREFIX}{group} (bucket, hash, attempt, seen_at_ms, rate) VALUES (?, unhex(?), unhex(?), ?, ?)"
        );
        let values = vec![
            int(row.bucket),
            hex(&row.hash),
            hex(&row.attempt),
            int(row.seen_at_ms),
            match row.rate {
                Rate::Requests => Value::Null,
                Rate::Receipts => RECEIPTS.into(),
            },
        ];
        sql.run(&query, &values)
    }

    /// The highest bucket up to and including `through` that has a row.
    pub fn highest_bucket(&self, sql: &Sql, through: u64) -> Result<Option<u64>> {
        let mut highest = None;
        for (name, _) in self.names() {
            let query = format!("SELECT MAX(bucket) FROM {name} WHERE bucket <= ?");
            highest = highest.max(bucket(sql, &query, vec![int(through)])?);
        }
        Ok(highest)
    }

    /// Deletes the nonces of all buckets up to and including `through`, the last of a group.
    pub fn delete(&self, sql: &Sql, through: u64) -> Result<()> {
        let over = |group: &u64| *group <= group_of(through);
        let mut groups = self.groups.borrow_mut();
        while let Some(group) = groups.first().copied().filter(over) {
            sql.run(&format!("DROP TABLE IF EXISTS {PREFIX}{group}"), &[])?;
            groups.remove(0);
        }
        if self.has_old.get() {
            sql.run("DELETE FROM nonces WHERE bucket <= ?", &[int(through)])?;
            if bucket(sql, "SELECT MIN(bucket) FROM nonces", vec![])?.is_none() {
                sql.run("DROP TABLE nonces", &[])?;
                self.has_old.set(false);
            }
        }
        Ok(())
    }

    /// The tables, and what stands for `rate` in each.
    fn names(&self) -> Vec<(String, &'static str)> {
        let of_groups = self.groups.borrow();
        let groups = of_groups.iter().map(|group| (format!("{PREFIX}{group}"), "rate"));
        let old = self.has_old.get().then(|| (OLD.to_owned(), "NULL"));
        groups.chain(old).collect()
    }
}

fn schema(group: u64) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {PREFIX}{group} (
  bucket INTEGER NOT NULL, hash BLOB NOT NULL, attempt BLOB NOT NULL, seen_at_ms INTEGER NOT NULL, rate TEXT,
  PRIMARY KEY (bucket, hash)
) WITHOUT ROWID"
    )
}

fn bucket(sql: &Sql, query: &str, values: Vec<Value>) -> Result<Option<u64>> {
    match sql.rows(query, &values)?.pop().as_deref() {
        Some([Value::Null]) => Ok(None),
        Some([value]) => number(value).map(Some),
        _ => Err(unexpected()),
    }
}
