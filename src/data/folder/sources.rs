//! Where images come from: folders, tar archives, Parquet tables, single files, and lists of all of these (`.txt`), or of files with
//! classes (`.csv`); on disks and on servers.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rayon::prelude::*;

use crate::data::folder::config::FolderConfig;
use crate::data::folder::index::kept::{is_named_index, root_of};
use crate::data::folder::index::walk::{pool, pool_of};
use crate::data::folder::layout::{Listed, PartNames, Parts, list_files};
use crate::data::folder::list_line::ListLine;
use crate::data::folder::list_table::{TableRow, rows_of};
use crate::data::folder::list_text::text_of;
use crate::data::folder::summary::ScanSummary;
use crate::data::storage::names::{is_csv, is_list, is_shard};
use crate::data::storage::shards::{self, expanded, refuse_compressed};
use crate::data::storage::stored::{Facts, is_folder};
use crate::error::{Error, Result, printable};
use crate::path_text::{absolute, in_words, is_remote};

/// Shards of a server that are read at once. Each is asked for megabytes at a time, which share the link and must all come within the
/// time limit of a request.
const SHARDS_AT_ONCE: usize = 8;
/// Why a table is refused.
const NO_COLUMN: &str = "has no column of images: name it `image`, of bytes or of `bytes` and `path` as Hugging Face writes it";

/// All files of the sources, those of each source in its order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// What the paths are relative to.
    pub roots: Vec<PathBuf>,
    /// The folders of disks among the sources.
    pub folders: Vec<PathBuf>,
    pub files: Vec<Listed>,
    /// Whether some were named one by one, and may be named twice.
    has_list: bool,
    /// Where indexes of shards are used: which images are too large for them.
    max_pixels: Option<u64>,
}

/// Refuses images that are not there: a folder, a file, a path into an archive, an address such as `s3://bucket/set`, or a file of a
/// pattern such as `{0000..0999}.tar`.
///
/// # Errors
/// [`Error::Io`] of what is missing, [`Error::Data`] of a pattern that is none.
pub fn check_source(source: &Path) -> Result<()> {
    let is_there = |path: &Path| match Facts::now(path) {
        Ok(_) => Ok(()),
        Err(_) if is_remote(path) && is_folder(path).map_err(Error::io(path))? => Ok(()),
        // a path into an archive is there if the archive has it
        Err(error) => match shards::length_and_time(path)? {
            Some(_) => Ok(()),
            None => Err(Error::io(path)(in_words(error))),
        },
    };
    match expanded(source)? {
        Some(files) => files.iter().try_for_each(|file| is_there(file)),
        None => is_there(source),
    }
}

/// Lists the files of folders, tar archives, Parquet tables, files and lists (`.txt`, `.csv`); a file that is named twice counts once.
///
/// # Errors
/// A source that is missing or cannot be read; [`Error::Stopped`] soon after `stop` is raised.
pub(super) fn list(
    sources: &[PathBuf],
    config: &FolderConfig,
    summary: &mut ScanSummary,
    stop: &AtomicBool,
) -> Result<Listing> {
    let mut listing = Listing {
        max_pixels: config.index.then_some(config.max_pixels),
        ..Listing::default()
    };
    for source in sources {
        check_source(source)?;
        if let Some(files) = expanded(source)? {
            // one set in pieces: its order is that of one archive
            let (of_shards, others): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| is_shard(file));
            listing.add_shards(&of_shards, true, summary, stop)?;
            others.iter().try_for_each(|file| refuse_compressed(file))?;
            others.iter().for_each(|file| listing.add_file(file));
        } else {
            listing.add(source, summary, stop)?;
        }
    }
    if sources.len() > 1 || listing.roots.len() > 1 || listing.has_list {
        listing.keep_first_of_each()?;
    }
    Ok(listing)
}

/// Whether a file is a set of images, by its name: an archive, a list or an index.
pub(super) fn holds_images(path: &Path) -> bool {
    is_shard(path) || is_list(path) || is_named_index(path)
}

/// The parts of a data set, which may be given by its index.
///
/// # Errors
/// Those of [`Parts::find`]; an index that is damaged or missing.
pub fn parts_of(source: &Path) -> Result<Option<Parts>> {
    if is_named_index(source) {
        Parts::find(&root_of(source)?)
    } else {
        Parts::find(source)
    }
}

/// The folders of the first level in which files are whose classes are not said.
fn first_folders(files: &[Listed]) -> BTreeSet<OsString> {
    let mut folders = BTreeSet::new();
    for file in files.iter().filter(|file| file.class.is_none()) {
        let mut parts = file.path.iter();
        if let (Some(first), Some(_)) = (parts.next(), parts.next())
            && !folders.contains(first)
        {
            folders.insert(first.to_os_string());
        }
    }
    folders
}

/// A path that is relative to a folder; an address is not.
fn joined(folder: &Path, path: &Path) -> PathBuf {
    if is_remote(path) {
        path.to_path_buf()
    } else {
        folder.join(path)
    }
}

/// Where a folder is; an address stays as it is.
fn real(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(real) if !is_remote(path) => Ok(real),
        _ => absolute(path),
    }
}

impl Listing {
    fn add(&mut self, source: &Path, summary: &mut ScanSummary, stop: &AtomicBool) -> Result<()> {
        if is_folder(source).map_err(Error::io(source))? {
            return self.add_folder(source, summary, stop);
        }
        if is_named_index(source) {
            return self.add_folder(&root_of(source)?, summary, stop);
        }
        refuse_compressed(source)?;
        if is_csv(source) {
            return self.add_table(source, summary);
        }
        if is_list(source) {
            return self.add_list(source, summary, stop);
        }
        if is_shard(source) {
            return self.add_shards(&[source.to_path_buf()], true, summary, stop);
        }
        self.add_file(source);
        Ok(())
    }

    /// The files of tar archives and tables that are one set in pieces, in the order of one archive of all. Classes are said by files
    /// beside the images, a column, or the folders in the archives. A table without images that was not named is another file.
    fn add_shards(
        &mut self,
        of_set: &[PathBuf],
        are_named: bool,
        summary: &mut ScanSummary,
        stop: &AtomicBool,
    ) -> Result<()> {
        let first = self.files.len();
        let max_pixels = self.max_pixels;
        let list = |shard: &PathBuf| shards::list(shard, max_pixels, stop);
        let pool = if of_set.iter().any(|shard| is_remote(shard)) {
            pool_of(SHARDS_AT_ONCE)?
        } else {
            pool()?
        };
        let found: Vec<_> = pool.install(|| of_set.par_iter().map(list).collect());
        for (shard, found) in of_set.iter().zip(found) {
            let Some(found) = found? else {
                if are_named {
                    return Err(Error::data(shard, NO_COLUMN));
                }
                summary.not_images += 1;
                continue;
            };
            let root = self.roots.len();
            self.roots.push(shard.clone());
            summary.not_images += found.others;
            summary.skipped.extend(found.skipped);
            let members = found.members.into_iter();
            self.files.extend(members.map(|member| Listed {
                root,
                path: member.path,
                class: member.class,
                class_depth: Some(0),
                known: member.known,
            }));
        }
        if let Some(parts) = PartNames::among(first_folders(&self.files[first..])) {
            summary.parts.extend(parts.all.iter().map(printable));
            self.files[first..]
                .iter_mut()
                .for_each(|file| file.class_depth = Some(1));
        }
        self.files[first..].sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    fn add_folder(
        &mut self,
        folder: &Path,
        summary: &mut ScanSummary,
        stop: &AtomicBool,
    ) -> Result<()> {
        let parts = Parts::find(folder)?.map_or_else(Vec::new, |parts| parts.names);
        let (root, class_depth) = (self.roots.len(), Some(usize::from(!parts.is_empty())));
        let files = list_files(folder, summary, stop)?.into_iter();
        let (of_set, files): (Vec<_>, Vec<_>) = files.partition(|path| is_shard(path));
        self.files.extend(files.into_iter().map(|path| Listed {
            root,
            path,
            class: None,
            class_depth,
            known: None,
        }));
        summary.parts.extend(parts);
        self.roots.push(folder.to_path_buf());
        if !is_remote(folder) {
            self.folders.push(folder.to_path_buf());
        }
        // as Hugging Face names them: train-00000-of-00002.parquet
        let first_words = of_set.iter().filter_map(|shard| {
            let (first, _) = shard.file_name()?.to_str()?.split_once('-')?;
            Some(first.into())
        });
        if let Some(parts) = PartNames::among(first_words)
            && parts.all.len() > 1
        {
            summary.parts.extend(parts.all.iter().map(printable));
        }
        let of_set: Vec<PathBuf> = of_set.iter().map(|shard| folder.join(shard)).collect();
        self.add_shards(&of_set, false, summary, stop)
    }

    /// The number of a folder that paths are relative to; of files in a row it is the same.
    fn root_of(&mut self, folder: PathBuf) -> usize {
        if self.roots.last() != Some(&folder) {
            self.roots.push(folder);
        }
        self.roots.len() - 1
    }

    fn add_file(&mut self, file: &Path) {
        let folder = file.parent().unwrap_or(Path::new(""));
        let root = self.root_of(folder.to_path_buf());
        self.files.push(Listed {
            root,
            path: file.file_name().map(PathBuf::from).unwrap_or_default(),
            class: None,
            class_depth: None,
            known: None,
        });
    }

    /// A file or folder in each line, as paths from the list's own folder, with the class behind `/./`; empty lines do not count.
    fn add_list(
        &mut self,
        list: &Path,
        summary: &mut ScanSummary,
        stop: &AtomicBool,
    ) -> Result<()> {
        let text = text_of(list)?;
        self.has_list = true;
        let folder = list.parent().unwrap_or(Path::new(""));
        let root = self.roots.len();
        self.roots.push(folder.to_path_buf());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line = ListLine::parse(line);
            let of_class = line.root.map(|of_class| joined(folder, &of_class));
            let path = joined(of_class.as_deref().unwrap_or(folder), &line.path);
            let is_source = if is_remote(&path) {
                // a file for each line: a server is not asked which are folders
                is_shard(&path)
            } else {
                let holds_many = is_shard(&path) || is_named_index(&path);
                path.is_dir() || (holds_many && path.is_file())
            };
            if is_source {
                self.add(&path, summary, stop)?;
                continue;
            }
            if is_remote(&line.path) {
                self.add_file(&path);
                continue;
            }
            let class_depth = of_class.is_some().then_some(0);
            let root = match of_class {
                Some(of_class) => self.root_of(of_class),
                None => root,
            };
            self.files.push(Listed {
                root,
                path: line.path,
                class: None,
                class_depth,
                known: None,
            });
        }
        Ok(())
    }

    /// A file in each record, with its class.
    fn add_table(&mut self, table: &Path, summary: &mut ScanSummary) -> Result<()> {
        let found = rows_of(table)?;
        let left_out = found.skipped.into_iter();
        summary
            .skipped
            .extend(left_out.map(|reason| (table.to_path_buf(), reason)));
        let root = self.roots.len();
        self.roots
            .push(table.parent().unwrap_or(Path::new("")).to_path_buf());
        for TableRow { path, class } in found.rows {
            let (root, path) = match (is_remote(&path), path.parent(), path.file_name()) {
                (true, Some(folder), Some(name)) => {
                    (self.root_of(folder.to_path_buf()), name.into())
                }
                _ => (root, path),
            };
            self.files.push(Listed {
                root,
                path,
                class,
                class_depth: None,
                known: None,
            });
        }
        Ok(())
    }

    /// Files are told apart by their paths, of which links and `..` in those of the sources are followed.
    fn keep_first_of_each(&mut self) -> Result<()> {
        let here = Path::new(".");
        let roots = self.roots.iter().map(|root| match root {
            root if root.as_os_str().is_empty() => real(here),
            root => real(root),
        });
        let roots = roots.collect::<Result<Vec<_>>>()?;
        let mut seen = HashSet::with_capacity(self.files.len());
        self.files
            .retain(|file| seen.insert(roots[file.root].join(&file.path)));
        Ok(())
    }
}
