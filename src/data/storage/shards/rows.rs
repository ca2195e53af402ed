//! Tables that are being read: rows that come one after the other are read in one go, by any thread.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::data::storage::shards::parquet::{GroupReader, Table};
use crate::data::storage::stored::Stored;
use crate::error::Result;
use crate::lock::lock;

/// Readers that are kept, each with a page of about 1 MB: as many as threads that read at a time, and some more.
const MOST: usize = 32;

/// The readers that were used last.
static READERS: Mutex<VecDeque<(PathBuf, GroupReader)>> = Mutex::new(VecDeque::new());

/// The bytes of a row of the table at `path`.
///
/// # Errors
/// It cannot be read, or has none.
pub(super) fn read(path: &Path, table: &Table, file: Arc<Stored>, row: u64) -> Result<Vec<u8>> {
    let group = table.group(row);
    let mut reader = match take(path, group, row) {
        Some(reader) => reader,
        None => table.reader(path, file, group)?,
    };
    // a reader that failed is not used again
    let bytes = reader.read(path, row)?;
    let mut readers = lock(&READERS);
    readers.push_back((path.to_path_buf(), reader));
    if readers.len() > MOST {
        readers.pop_front();
    }
    Ok(bytes)
}

/// The reader that is nearest before a row.
fn take(path: &Path, group: usize, row: u64) -> Option<GroupReader> {
    let mut readers = lock(&READERS);
    let before = readers
        .iter()
        .enumerate()
        .filter(|(_, (of, reader))| of == path && reader.group == group && reader.next <= row);
    let (nearest, _) = before.max_by_key(|(_, (_, reader))| reader.next)?;
    readers.remove(nearest).map(|(_, reader)| reader)
}

/// Lets go of the readers of a table, which is another one now.
pub(super) fn close(path: &Path) {
    let mut readers = lock(&READERS);
    readers.retain(|(of, _)| of != path);
}
