//! How a folder of images is laid out: which files and folders count, which are classes, which are parts of a data set.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use walkdir::WalkDir;

use crate::data::folder::summary::ScanSummary;
use crate::data::storage::names::{is_of_a_tool, is_resource_fork};
use crate::data::storage::shards::members::CachedKind;
use crate::data::storage::stored::{folders_in, objects_in};
use crate::error::{Error, Result, printable};
use crate::path_text::is_remote;

/// Names of the part that is trained on, as ImageNet and others have it.
const TRAIN: [&str; 2] = ["train", "training"];
/// Names of the other parts, the one that is taken to validate on first.
const OTHERS: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

/// A data set in parts: a folder `train` of classes, and `val`, `test` or others next to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The images to train on.
    pub train: PathBuf,
    /// Those to validate on: `val`, `valid`, `validation`, `test` or `testing`, the first that is there.
    pub val: Option<PathBuf>,
    /// Names of all of them, as they are written.
    pub names: Vec<String>,
}

impl Parts {
    /// The parts of a data set: one folder of the first level is `train` or `training`, and either it is the only one, or
    /// another one is `val`, `test` or the like; then all others are parts too, such as `unlabeled`. None where `train` is
    /// beside other names alone: of vehicles, it is a class. Capitals count as small letters. None also of what is no folder, and of
    /// web servers, which list none.
    ///
    /// # Errors
    /// [`Error::Io`] of a folder that cannot be listed.
    pub fn find(root: &Path) -> Result<Option<Self>> {
        let folders = folders_or_none(folders_in(root)).map_err(Error::io(root))?;
        Ok(PartNames::among(folders).map(|names| Self {
            train: root.join(&names.train),
            val: names.val.as_ref().map(|name| root.join(name)),
            names: names.all.iter().map(printable).collect(),
        }))
    }
}

/// The folders of a first level, none where there can be none. Where a disk or server fails there may be some: to go on without them
/// would train on the images for validation.
fn folders_or_none(folders: io::Result<Vec<OsString>>) -> io::Result<Vec<OsString>> {
    let is_none = [
        ErrorKind::NotFound,
        ErrorKind::NotADirectory,
        ErrorKind::Unsupported,
    ];
    match folders {
        Err(error) if is_none.contains(&error.kind()) => Ok(Vec::new()),
        folders => folders,
    }
}

/// The names of the parts of a data set.
pub(super) struct PartNames {
    train: OsString,
    val: Option<OsString>,
    pub all: Vec<OsString>,
}

impl PartNames {
    /// Those among names of a first level, by the rule of [`Parts::find`].
    pub fn among(names: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let (mut found, mut more) = (BTreeMap::new(), BTreeSet::new());
        for name in names {
            if is_of_a_tool(&name) {
                continue;
            }
            let mut known = TRAIN.iter().chain(&OTHERS);
            match known.position(|known| name.eq_ignore_ascii_case(known)) {
                Some(place) => _ = found.insert(place, name),
                None => _ = more.insert(name),
            }
        }
        let (first, train) = found.first_key_value()?;
        if *first >= TRAIN.len() {
            return None;
        }
        let mut others = found.iter().filter(|(place, _)| **place >= TRAIN.len());
        if !more.is_empty() && others.clone().next().is_none() {
            return None;
        }
        Some(Self {
            train: train.clone(),
            val: others.next().map(|(_, name)| name.clone()),
            all: found.values().chain(&more).cloned().collect(),
        })
    }
}

/// A file that may be an image.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Index of the folder that `path` is relative to.
    pub root: usize,
    pub path: PathBuf,
    /// Its class, where that is said and not named by `path`.
    pub class: Option<Arc<str>>,
    /// Which part of `path` names its class; none for files that were named one by one.
    pub class_depth: Option<usize>,
    /// What it is, where that is known without reading it.
    pub known: Option<CachedKind>,
}

/// Every file below `root`, relative to it and sorted; what is left out or cannot be listed goes to the summary.
///
/// # Errors
/// [`Error::Io`] where `root` itself cannot be listed; [`Error::Stopped`] soon after `stop` is raised.
pub(super) fn list_files(
    root: &Path,
    summary: &mut ScanSummary,
    stop: &AtomicBool,
) -> Result<Vec<PathBuf>> {
    if is_remote(root) {
        return list_remote(root, summary, stop);
    }
    let mut files = Vec::new();
    let mut entries = WalkDir::new(root).follow_links(true).into_iter();
    while let Some(entry) = entries.next() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {
                if entry.depth() > 0 && is_of_a_tool(entry.file_name()) {
                    entries.skip_current_dir();
                    let name = printable(entry.file_name());
                    *summary.of_tools.entry(name).or_default() += 1;
                }
            }
            Ok(entry) if entry.file_type().is_file() && is_resource_fork(entry.file_name()) => {
                summary.not_images += 1;
            }
            Ok(entry) if entry.file_type().is_file() => {
                let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
                files.push(path.to_path_buf());
            }
            // A pipe or socket: reading it could wait for ever.
            Ok(_) => summary.not_images += 1,
            Err(error) => summary.skipped.push(unlisted(error, root)?),
        }
    }
    files.sort();
    Ok(files)
}

/// The same of a server.
fn list_remote(root: &Path, summary: &mut ScanSummary, stop: &AtomicBool) -> Result<Vec<PathBuf>> {
    let all = objects_in(root, stop).map_err(|error| {
        if stop.load(Ordering::Relaxed) {
            Error::Stopped
        } else {
            Error::io(root)(error)
        }
    })?;
    let mut files = Vec::with_capacity(all.len());
    for path in all {
        let folders = path.parent().into_iter().flat_map(Path::iter);
        if let Some(tool) = folders.into_iter().find(|name| is_of_a_tool(name)) {
            *summary.of_tools.entry(printable(tool)).or_default() += 1;
        } else if path.file_name().is_none_or(is_resource_fork) {
            summary.not_images += 1;
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Which path cannot be listed, and why.
fn unlisted(error: walkdir::Error, root: &Path) -> Result<(PathBuf, String)> {
    let path = error.path().unwrap_or(root).to_path_buf();
    let is_loop = error.loop_ancestor().is_some();
    let reason = match error.into_io_error() {
        Some(source) if path == root => return Err(Error::Io { path, source }),
        Some(source) => source.to_string(),
        None if is_loop => "a link to one of its parent folders".to_owned(),
        None => "cannot be listed".to_owned(),
    };
    Ok((path, reason))
}

/// The label of each file, and the names of the classes: those of the folders of the first level, or of the second below
/// parts such as `train`; sorted by their bytes. An image in no such folder has none.
pub(super) fn labels<'a>(
    files: impl Iterator<Item = &'a Listed> + Clone,
) -> (Vec<Option<usize>>, Vec<String>) {
    let class = |file: &'a Listed| match &file.class {
        Some(said) => Some(OsStr::new(said.as_ref())),
        None => class(&file.path, file.class_depth?),
    };
    let names: BTreeSet<&OsStr> = files.clone().filter_map(class).collect();
    let label_from_name: BTreeMap<&OsStr, usize> = names.iter().copied().zip(0..).collect();
    let label = |file| label_from_name.get(class(file)?).copied();
    (
        files.map(label).collect(),
        names.into_iter().map(printable).collect(),
    )
}

/// The folder at a depth of a relative path.
fn class(path: &Path, depth: usize) -> Option<&OsStr> {
    let mut components = path.components().skip(depth);
    match (components.next(), components.next()) {
        (Some(Component::Normal(folder)), Some(_)) => Some(folder),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_no_set_without_parts() {
        for kind in [ErrorKind::NotFound, ErrorKind::NotADirectory] {
            assert!(folders_or_none(Err(kind.into())).is_ok_and(|folders| folders.is_empty()));
        }
        let failed = folders_or_none(Err(io::Error::other("503 Slow Down")));
        assert!(failed.is_err_and(|error| error.to_string().contains("503")));
    }
}
