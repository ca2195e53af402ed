//! Shards: tar archives and Parquet tables of many pictures, read at any place without unpacking.
//!
//! A picture in a shard has the path that it would have if the shard were a folder: `shards/0001.tar/dog/12.jpg`. So whatever names a
//! picture file names one in a shard as well; a folder whose name ends in `.tar` stays a folder.
//! Rows of a table are files too: `set.parquet/cat/12.jpg`.

mod columns;
mod compressed;
mod members;
mod parquet;
mod pattern;
mod rows;
mod tar;
mod window;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{Cursor, Read, Result as IoResult, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use crate::error::{Error, Result};

pub(super) use compressed::refuse_compressed;
use members::{Members, Span};
pub(super) use pattern::expanded;
use window::Window;

/// The shards that were listed, by their paths.
static LISTED: LazyLock<Mutex<HashMap<PathBuf, Arc<Shard>>>> = LazyLock::new(Mutex::default);

/// An archive or table, and where its files lie in it.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
    spans: HashMap<PathBuf, Span>,
    /// Where the spans are rows of a table.
    table: Option<parquet::Table>,
}

/// Whether a file is a shard, by its name.
pub(super) fn is_shard(path: &Path) -> bool {
    has_ending(path, "tar") || is_table(path)
}

/// Whether a file is a Parquet table, by its name.
fn is_table(path: &Path) -> bool {
    has_ending(path, "parquet")
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// The files of a shard, which is then known to [`member`]; None for a table without a column of pictures.
///
/// # Errors
/// It cannot be read, or is no tar archive from its start or no table; [`Error::Stopped`] soon after `stop` is raised.
pub(super) fn list(path: &Path, stop: &AtomicBool) -> Result<Option<Members>> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::data(path, "is no file despite its ending"));
    }
    window::close(path);
    rows::close(path);
    let length = metadata.len();
    let (spans, members, table) = match is_table(path) {
        true => {
            let file = File::open(path).map_err(Error::io(path))?;
            let Some((spans, members, table)) = parquet::read(path, file, length, stop)? else {
                return Ok(None);
            };
            (spans, members, Some(table))
        }
        false => {
            let (spans, members) = tar::read(path, length, stop)?;
            (spans, members, None)
        }
    };
    let shard = Shard {
        path: path.to_path_buf(),
        length,
        modified: metadata.modified().ok(),
        spans,
        table,
    };
    let mut listed = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
    listed.insert(path.to_path_buf(), Arc::new(shard));
    Ok(Some(members))
}

/// The bytes of a file in a shard.
#[derive(Debug)]
pub(super) enum Inside {
    Window(Window),
    Row(Cursor<Vec<u8>>),
}

impl Read for Inside {
    fn read(&mut self, to: &mut [u8]) -> IoResult<usize> {
        match self {
            Self::Window(window) => window.read(to),
            Self::Row(bytes) => bytes.read(to),
        }
    }
}

impl Seek for Inside {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        match self {
            Self::Window(window) => window.seek(to),
            Self::Row(bytes) => bytes.seek(to),
        }
    }
}

/// A file in a shard.
#[derive(Debug)]
pub(super) struct InShard {
    pub bytes: Inside,
    /// Number of bytes.
    pub length: u64,
    /// Of the shard.
    pub modified: Option<SystemTime>,
}

/// A file that a path into a shard names.
struct Named {
    shard: Arc<Shard>,
    span: Span,
    /// Of the shard.
    file: Arc<File>,
}

/// The file that a path into a shard names; None for every other path.
///
/// # Errors
/// The shard cannot be read, has changed since it was listed, or has no such file.
pub(super) fn member(path: &Path) -> Result<Option<InShard>> {
    let Some(Named { shard, span, file }) = named(path)? else {
        return Ok(None);
    };
    let (bytes, length) = match &shard.table {
        None => {
            let window = Window::new(file, span.offset, span.length);
            (Inside::Window(window), span.length)
        }
        Some(table) => {
            let bytes = rows::read(&shard.path, table, file, span.offset);
            let bytes = bytes.map_err(|error| Error::data(path, error.without_path()))?;
            let length = bytes.len() as u64;
            table.keep_length(span.offset, length);
            (Inside::Row(Cursor::new(bytes)), length)
        }
    };
    Ok(Some(InShard {
        bytes,
        length,
        modified: shard.modified,
    }))
}

/// Bytes of a file in a shard, and when the shard was written; None for every other path. A row that was read before is not read again.
///
/// # Errors
/// As [`member`].
pub(super) fn length_and_time(path: &Path) -> Result<Option<(u64, Option<SystemTime>)>> {
    let Some(Named { shard, span, .. }) = named(path)? else {
        return Ok(None);
    };
    let known = match &shard.table {
        None => Some(span.length),
        Some(table) => table.length(span.offset),
    };
    match known {
        Some(length) => Ok(Some((length, shard.modified))),
        None => Ok(member(path)?.map(|member| (member.length, member.modified))),
    }
}

fn named(path: &Path) -> Result<Option<Named>> {
    let Some((shard, inside)) = split(path) else {
        return Ok(None);
    };
    let listed = || {
        let listed = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
        listed.get(&shard).cloned()
    };
    let found = match listed() {
        Some(found) => found,
        // a path that someone typed
        None => {
            list(&shard, &AtomicBool::new(false))?;
            let gone = || Error::data(&shard, "has no images");
            listed().ok_or_else(gone)?
        }
    };
    let Some(span) = found.spans.get(&inside).copied() else {
        return Err(Error::data(path, "no such file in this archive or table"));
    };
    let file = window::opened(&shard).map_err(Error::io(&shard))?;
    found.check(&file.metadata().map_err(Error::io(&shard))?)?;
    Ok(Some(Named {
        shard: found,
        span,
        file,
    }))
}

impl Shard {
    /// Refuses a file that is not as it was: places in it would be those of other bytes.
    fn check(&self, now: &Metadata) -> Result<()> {
        match now.len() == self.length && now.modified().ok() == self.modified {
            true => Ok(()),
            false => {
                let reason = "has changed since it was listed; start again";
                Err(Error::data(&self.path, reason))
            }
        }
    }
}

/// Path of the shard and path within it.
fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let is_in = |shard: &&Path| is_shard(shard) && shard.is_file();
    let shard = path.ancestors().skip(1).find(is_in)?;
    let inside = path.strip_prefix(shard).ok()?;
    Some((shard.to_path_buf(), inside.to_path_buf()))
}
