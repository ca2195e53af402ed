//! Where the index of a folder lies, whether it is still so, and how it is made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::data::folder::index::build::Build;
use crate::data::folder::index::file::{can_write, is_index, open, write};
use crate::data::folder::index::table::{Facts, Table};
use crate::data::folder::index::walk::{Walk, identity, is_left_as, pool};
use crate::data::folder::layout::Parts;
use crate::data::storage::cache_folder::index_folder;
use crate::data::storage::stamp::Stamp;
use crate::error::{Error, Result, printable};
use crate::path_text::{is_inside, path_of_text, path_text};

/// Sets of as many images get an index by themselves: smaller ones are scanned in less than a second.
pub(in crate::data) const LEAST: usize = 20_000;

/// Of the names of indexes.
const ENDING: &str = "ibidx";
/// What to do about an index that is no good.
const REMEDY: &str = "; give the image folder, or make it anew with `ibot index`";

/// Which index is made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Keep<'a> {
    /// None.
    No,
    /// That in the user's cache folder, for sets that are large.
    Cached,
    /// This file, whatever the size of the set.
    File(&'a Path),
    /// This file, or that in the cache folder, whatever the size of the set; each image's file is asked whether it changed.
    Asked(Option<&'a Path>),
}

/// How an index was come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexWork {
    /// Where the index is, if it is a file.
    pub file: Option<PathBuf>,
    /// Files that were opened; the others were known.
    pub opened: usize,
    /// Folders.
    pub folders: usize,
    /// Whether the file was written.
    pub is_written: bool,
}

/// The index of the folder `root`, and how it was come by; none where it holds archives or tables of images, which are
/// listed another way.
///
/// # Errors
/// Those of [`Walk::add_folder`]; [`Error::Io`] of a file that was asked for and cannot be written, [`Error::Data`] of one
/// that is there and no index.
pub(in crate::data) fn index_of(
    root: &Path,
    max_pixels: u64,
    keep: Keep,
    stop: &AtomicBool,
) -> Result<Option<(Table, IndexWork)>> {
    let absolute = std::path::absolute(root).map_err(Error::io(root))?;
    let file = file_of(keep, &absolute, max_pixels)?;
    let mut facts = Facts {
        root: path_text(&absolute),
        max_pixels,
        ..Facts::default()
    };
    let older = file.as_deref().and_then(|file| older(file, &facts));
    let asks_each = matches!(keep, Keep::Asked(_));
    let mut work = IndexWork {
        file: None,
        opened: 0,
        folders: older.as_ref().map_or(0, Table::folders),
        is_written: false,
    };
    let older = match older {
        Some(older) if !asks_each && is_current(&older, root, stop)? => {
            work.file = file;
            return Ok(Some((older.with_root(root), work)));
        }
        older => older,
    };
    let mut walk = Walk::new(max_pixels, stop)?;
    if let Some(older) = &older {
        walk = walk.with(older, asks_each);
    }
    facts.parts = Parts::find(root)?.map_or_else(Vec::new, |parts| parts.names);
    let class_depth = usize::from(!facts.parts.is_empty());
    walk.add_folder(root, Some(class_depth))?;
    if walk.nodes.iter().any(|node| node.holds_shards) {
        return Ok(None);
    }
    (work.opened, work.folders) = (walk.headers(), walk.nodes.len());
    let nodes = walk.nodes;
    // Windows replaces no file that is mapped
    drop(older);
    let build = Build::new(&nodes, facts);
    let is_large = keep != Keep::Cached || build.lengths().images >= LEAST;
    if let Some(file) = file.filter(|_| is_large) {
        match stored(&file, &build) {
            Ok(table) => {
                (work.is_written, work.file) = (true, Some(file));
                return Ok(Some((table.with_root(root), work)));
            }
            Err(error) if asks_each => return Err(error),
            Err(error) => log::warn!("no index of {} is kept: {error}", printable(root)),
        }
    }
    let table = build.table().map_err(Error::io(root))?;
    Ok(Some((table, work)))
}

/// The file of the index of the folder `root`, an absolute path; none where it is in memory alone.
///
/// # Errors
/// It cannot be there: the file is something else, is not named as an index, or lies in the folder.
fn file_of(keep: Keep, root: &Path, max_pixels: u64) -> Result<Option<PathBuf>> {
    if let Keep::File(file) | Keep::Asked(Some(file)) = keep
        && is_inside(file, root)
    {
        let reason = "lies in its image folder, whose time each write would change, so that every start would make it anew; put it elsewhere";
        return Err(Error::data(file, reason));
    }
    Ok(match keep {
        Keep::No => None,
        Keep::Cached => cached_at(root, max_pixels).ok(),
        Keep::Asked(None) => Some(cached_at(root, max_pixels)?),
        Keep::File(file) | Keep::Asked(Some(file)) if file.exists() && !is_index(file) => {
            let reason = "is there and is no index of ibot; give a new name";
            return Err(Error::data(file, reason));
        }
        Keep::Asked(Some(file)) if !is_named_index(file) => {
            let reason = format!("must end in .{ENDING}: commands know an index by that");
            return Err(Error::data(file, reason));
        }
        Keep::File(file) | Keep::Asked(Some(file)) => Some(file.to_path_buf()),
    })
}

/// Whether a source is an index, by its name.
pub(in crate::data) fn is_named_index(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case(ENDING))
}

/// The folder that the index in a file is of.
///
/// # Errors
/// [`Error::Data`] where it is no intact index or its folder is gone, [`Error::Io`] where it is missing.
pub(in crate::data) fn root_of(file: &Path) -> Result<PathBuf> {
    fs::metadata(file).map_err(Error::io(file))?;
    let table = open(file).map_err(|reason| Error::data(file, reason + REMEDY))?;
    let table = table.ok_or_else(|| Error::data(file, "is gone again"))?;
    let root = path_of_text(&table.facts().root);
    if root.is_dir() {
        Ok(root)
    } else {
        let root = printable(&root);
        let reason = format!(
            "is the index of {root}, which is not there; if it has moved, make its index with `ibot index` again"
        );
        Err(Error::data(file, reason))
    }
}

/// Where the index of a folder lies in the user's cache folder, which is made.
fn cached_at(root: &Path, max_pixels: u64) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(path_text(root).as_bytes());
    hasher.update(&max_pixels.to_le_bytes());
    let name = format!("{}.{ENDING}", &hasher.finalize().to_hex()[..32]);
    Ok(index_folder()?.join(name))
}

/// The index in a file, if it is one of this folder.
fn older(file: &Path, facts: &Facts) -> Option<Table> {
    match open(file) {
        Ok(table) => table.filter(|older| {
            let of = older.facts();
            of.root == facts.root && of.max_pixels == facts.max_pixels
        }),
        Err(reason) => {
            let file = printable(file);
            log::warn!("index {file} {reason}; it is made anew");
            None
        }
    }
}

fn stored(file: &Path, build: &Build) -> Result<Table> {
    if !can_write(build) {
        return Err(Error::data(file, "cannot hold names that are not Unicode"));
    }
    write(file, build)?;
    let table = open(file).map_err(|reason| Error::data(file, reason))?;
    table.ok_or_else(|| Error::data(file, "is gone again"))
}

/// Whether all folders have the entries that the index says, by their times, and files that were left out are as they were.
fn is_current(table: &Table, root: &Path, stop: &AtomicBool) -> Result<bool> {
    let path = |number: u32| table.folder_path_from(root, number);
    let is_same = |number: u32| {
        let now = fs::metadata(path(number)).ok()?;
        let before = table.folder(number)?;
        let modified = Stamp::of_metadata(&now).modified;
        let is_same = modified != 0 && modified == before.modified;
        Some(is_same && identity(&now) == before.identity)
    };
    let goes_on = || !stop.load(Ordering::Relaxed);
    let is_current = pool()?.install(|| {
        let folders = (0..table.folders() as u32).into_par_iter();
        let left_out = table.facts().left_out.par_iter();
        folders.all(|number| goes_on() && is_same(number) == Some(true))
            && left_out
                .into_par_iter()
                .all(|one| goes_on() && is_left_as(one, &path(one.folder)))
    });
    if goes_on() {
        Ok(is_current)
    } else {
        Err(Error::Stopped)
    }
}
