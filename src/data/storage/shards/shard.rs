//! An archive or table that was listed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::data::storage::shards::members::Span;
use crate::data::storage::shards::parquet::Table;
use crate::data::storage::stored::Facts;
use crate::error::{Error, Result};

/// An archive or table, and where its files lie in it.
#[derive(Debug)]
pub(super) struct Shard {
    pub path: PathBuf,
    pub length: u64,
    pub modified: Option<SystemTime>,
    pub spans: HashMap<PathBuf, Span>,
    /// Where the spans are rows of a table.
    pub table: Option<Table>,
    /// What a server calls this version of it.
    pub tag: Option<Arc<str>>,
    /// As of `Members`.
    pub others: usize,
    pub skipped: Vec<(PathBuf, String)>,
}

impl Shard {
    /// Refuses a file that is not as it was: places in it would be those of other bytes.
    pub fn check(&self, now: &Facts) -> Result<()> {
        if now.length == self.length && now.modified == self.modified && now.tag == self.tag {
            Ok(())
        } else {
            let reason = "has changed since it was listed; start again";
            Err(Error::data(&self.path, reason))
        }
    }
}
