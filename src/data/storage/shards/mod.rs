//! Shards: tar archives and Parquet tables of many images, read at any place without unpacking.
//!
//! An image in a shard has the path that it would have if the shard were a folder: `shards/0001.tar/dog/12.jpg`. So whatever names an
//! image file names one in a shard as well; a folder whose name ends in `.tar` stays a folder.
//! Rows of a table are files too: `set.parquet/cat/12.jpg`.

mod columns;
pub(in crate::data) mod compressed;
mod index;
pub(in crate::data) mod members;
mod parquet;
mod pattern;
mod rows;
mod shard;
mod tar;
mod unbroken;
pub(in crate::data) mod window;

use std::collections::HashMap;
use std::io::{Cursor, Result as IoResult};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::data::storage::bytes::Bytes;
use crate::data::storage::cache_folder::index_folder;
use crate::data::storage::failure::Failure;
use crate::data::storage::names::{is_parquet, is_shard};
use crate::data::storage::stored::{Facts, Stored};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::path_text::is_remote;

pub(in crate::data) use compressed::refuse_compressed;
use members::{CachedKind, Members, Span};
pub(in crate::data) use pattern::expanded;
use shard::Shard;
use window::Window;

/// The shards that were listed, by their paths.
static LISTED: LazyLock<Mutex<HashMap<PathBuf, Arc<Shard>>>> = LazyLock::new(Mutex::default);

/// The scans of each shard that a path into it led to.
static SCANS: LazyLock<Mutex<HashMap<PathBuf, Arc<Scans>>>> = LazyLock::new(Mutex::default);

/// Scans of one shard, of which one is made at a time.
#[derive(Debug, Default)]
struct Scans {
    ended: AtomicUsize,
    /// Why the last one failed; held while one is made.
    failure: Mutex<Option<Failure>>,
}

/// Whether a shard on a disk may have images: every archive, and a table with a column of them. Also one that cannot be read, so that
/// whoever lists it says why.
pub(in crate::data) fn may_have_images(path: &Path) -> bool {
    !is_parquet(path) || parquet::has_images(path).unwrap_or(true)
}

/// The files of a shard, which is then known to [`member`]; None for a table without a column of images. With `max_pixels`, an
/// index that was kept is used.
///
/// # Errors
/// It cannot be read, or is no tar archive from its start or no table; [`Error::Stopped`] soon after `stop` is raised.
pub(in crate::data) fn list(
    path: &Path,
    max_pixels: Option<u64>,
    stop: &AtomicBool,
) -> Result<Option<Members>> {
    let facts = Facts::now(path).map_err(Error::io(path))?;
    if !facts.is_file {
        return Err(Error::data(path, "is no file despite its ending"));
    }
    window::close(path);
    rows::close(path);
    let known = max_pixels.and_then(|max_pixels| {
        let folder = index_folder().ok()?;
        index::open(&folder, path, &facts, max_pixels)
    });
    if let Some((shard, members)) = known {
        listed().insert(path.to_path_buf(), Arc::new(shard));
        return Ok(Some(members));
    }
    let length = facts.length;
    let file = || Stored::open(path).map(Arc::new).map_err(Error::io(path));
    let (spans, members, table) = if is_parquet(path) {
        let Some((spans, members, table)) = parquet::read(path, file()?, length, stop)? else {
            return Ok(None);
        };
        (spans, members, Some(table))
    } else {
        let (spans, members) = tar::read(path, file()?, length, stop)?;
        (spans, members, None)
    };
    let shard = Shard {
        path: path.to_path_buf(),
        length,
        modified: facts.modified,
        tag: facts.tag,
        spans,
        table,
        others: members.others,
        skipped: members.skipped.clone(),
    };
    listed().insert(path.to_path_buf(), Arc::new(shard));
    Ok(Some(members))
}

fn listed() -> MutexGuard<'static, HashMap<PathBuf, Arc<Shard>>> {
    lock(&LISTED)
}

/// Keeps an index of the shard at `path`, which was listed: each file with its class, and what it is.
///
/// # Errors
/// It cannot be written.
pub(in crate::data) fn keep_index<'a>(
    path: &Path,
    members: impl Iterator<Item = (&'a Path, Option<&'a Arc<str>>, CachedKind)>,
    max_pixels: u64,
) -> Result<()> {
    let shard = listed().get(path).cloned();
    shard.map_or(Ok(()), |shard| {
        index::write(&index_folder()?, &shard, members, max_pixels)
    })
}

/// A file in a shard.
#[derive(Debug)]
pub(in crate::data) struct InShard {
    pub bytes: Bytes,
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
    file: Arc<Stored>,
}

/// The file that a path into a shard names, or an object; None for every other path.
///
/// # Errors
/// The shard or object cannot be read, has changed since it was listed, or has no such file.
pub(in crate::data) fn member(path: &Path) -> Result<Option<InShard>> {
    let Some(Named { shard, span, file }) = named(path)? else {
        return object(path).map_err(Error::io(path));
    };
    let (bytes, length) = match &shard.table {
        None => {
            let window = Window::new(file, span.offset, span.length);
            (Bytes::Part(window), span.length)
        }
        Some(table) => {
            let bytes = rows::read(&shard.path, table, file, span.offset);
            let bytes = bytes.map_err(|error| match error {
                Error::Io { source, .. } => Error::io(path)(source),
                other => Error::data(path, other.without_path()),
            })?;
            let length = bytes.len() as u64;
            table.keep_length(span.offset, length);
            (Bytes::Whole(Cursor::new(bytes)), length)
        }
    };
    Ok(Some(InShard {
        bytes,
        length,
        modified: shard.modified,
    }))
}

/// An object that is no shard.
fn object(path: &Path) -> IoResult<Option<InShard>> {
    if !is_remote(path) {
        return Ok(None);
    }
    let object = Stored::open(path)?;
    let facts = object.facts()?;
    Ok(Some(InShard {
        bytes: Bytes::Part(Window::new(Arc::new(object), 0, facts.length)),
        length: facts.length,
        modified: facts.modified,
    }))
}

/// Bytes of a file in a shard, and when the shard was written, or of an object; None for every other path. A row that was read before is not read again.
///
/// # Errors
/// As [`member`].
pub(in crate::data) fn length_and_time(path: &Path) -> Result<Option<(u64, Option<SystemTime>)>> {
    let Some(Named { shard, span, .. }) = named(path)? else {
        let object = object(path).map_err(Error::io(path))?;
        return Ok(object.map(|object| (object.length, object.modified)));
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
    let known = || listed().get(&shard).cloned();
    let found = match known() {
        Some(found) => found,
        None => listed_once(&shard)?,
    };
    let Some(span) = found.spans.get(&inside).copied() else {
        return Err(Error::data(path, "no such file in this archive or table"));
    };
    let file = window::opened(&shard).map_err(Error::io(&shard))?;
    found.check(&file.facts().map_err(Error::io(&shard))?)?;
    Ok(Some(Named {
        shard: found,
        span,
        file,
    }))
}

/// A shard that only paths into it name, as those of a list do: threads that read these at once share one scan of it.
fn listed_once(path: &Path) -> Result<Arc<Shard>> {
    let known = || listed().get(path).cloned();
    let scans = lock(&SCANS).entry(path.to_path_buf()).or_default().clone();
    let ended = scans.ended.load(Ordering::Relaxed);
    let mut failure = lock(&scans.failure);
    if let Some(found) = known() {
        return Ok(found);
    }
    // the one that this thread waited for
    let is_made = scans.ended.load(Ordering::Relaxed) != ended;
    if let Some(failure) = failure.as_ref().filter(|_| is_made) {
        return Err(failure.error(path));
    }
    let listed = list(path, None, &AtomicBool::new(false));
    let found = listed.and_then(|_| known().ok_or_else(|| Error::data(path, "has no images")));
    *failure = found.as_ref().err().map(Failure::of);
    scans.ended.fetch_add(1, Ordering::Relaxed);
    if found.is_ok() {
        lock(&SCANS).remove(path); // who comes later finds the shard first
    }
    found
}

/// Path of the shard and path within it.
fn split(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let is_in = |shard: &&Path| is_shard(shard) && (is_remote(shard) || shard.is_file());
    let shard = path.ancestors().skip(1).find(is_in)?;
    let inside = path.strip_prefix(shard).ok()?;
    Some((shard.to_path_buf(), inside.to_path_buf()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn threads_that_read_an_archive_share_one_scan_of_it() {
        let path = std::env::temp_dir().join(format!("ibot-once-{}.tar", std::process::id()));
        let mut builder = ::tar::Builder::new(std::fs::File::create(&path).unwrap());
        for number in 0..5000 {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(0);
            let name = format!("{number}.png");
            builder.append_data(&mut header, name, &[][..]).unwrap();
        }
        builder.finish().unwrap();
        let start = std::sync::Barrier::new(8);
        let found: Vec<Arc<Shard>> = std::thread::scope(|scope| {
            let read = || {
                start.wait();
                named(&path.join("7.png")).unwrap().unwrap().shard
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
            let found = threads.into_iter().map(|thread| thread.join().unwrap());
            found.collect()
        });
        assert!(found.iter().all(|shard| Arc::ptr_eq(shard, &found[0])));
        std::fs::remove_file(&path).unwrap();
    }
}
