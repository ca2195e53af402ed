//! How a folder of pictures is laid out: which files and folders count, which are classes, which are parts of a data set.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use walkdir::{DirEntry, WalkDir};

use crate::data::summary::ScanSummary;
use crate::error::{Error, Result, printable};

/// Folders that systems and tools create among pictures, besides those whose names begin with a dot (`.ipynb_checkpoints`,
/// `.Trash-1000`, `.git`): thumbnails, waste, snapshots and resource forks are no classes.
const OF_TOOLS: [&str; 10] = [
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "__MACOSX",
    "__pycache__",
    "lost+found",
];
/// Names of the part that is trained on, as ImageNet and others have it.
const TRAIN: [&str; 2] = ["train", "training"];
/// Names of the other parts, the one that is taken to validate on first.
const OTHERS: [&str; 5] = ["val", "valid", "validation", "test", "testing"];

/// A data set in parts: a folder `train` of classes, and `val`, `test` or both next to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The pictures to train on.
    pub train: PathBuf,
    /// Those to validate on: `val`, `valid`, `validation`, `test` or `testing`, the first that is there.
    pub val: Option<PathBuf>,
    /// Names of all of them, as they are written.
    pub names: Vec<String>,
}

impl Parts {
    /// The parts of a data set, where every folder of the first level has the name of one and one of them is `train` or
    /// `training`; none where a folder has another name, or nothing can be listed. Capitals count as small letters.
    pub fn find(root: &Path) -> Option<Self> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(root).ok()?.flatten() {
            let name = entry.file_name();
            if is_of_a_tool(&name) || !entry.path().is_dir() {
                continue;
            }
            let known = TRAIN.iter().chain(&OTHERS);
            let place = known
                .clone()
                .position(|known| name.eq_ignore_ascii_case(known))?;
            found.insert(place, name);
        }
        let (first, train) = found.first_key_value()?;
        if *first >= TRAIN.len() {
            return None;
        }
        let mut others = found.iter().filter(|(place, _)| **place >= TRAIN.len());
        Some(Self {
            train: root.join(train),
            val: others.next().map(|(_, name)| root.join(name)),
            names: found.values().map(printable).collect(),
        })
    }
}

/// Whether a folder of this name is left out.
fn is_of_a_tool(name: &OsStr) -> bool {
    let is_hidden = name.as_encoded_bytes().starts_with(b".");
    is_hidden || OF_TOOLS.iter().any(|tool| name.eq_ignore_ascii_case(tool))
}

/// Whether a file holds what macOS keeps beside one of the name without `._` on other file systems.
fn is_resource_fork(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b"._") && entry.file_type().is_file()
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
            Ok(entry) if is_resource_fork(&entry) => summary.not_pictures += 1,
            Ok(entry) if entry.file_type().is_file() => {
                let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
                files.push(path.to_path_buf());
            }
            // A pipe or socket: reading it could wait for ever.
            Ok(_) => summary.not_pictures += 1,
            Err(error) => summary.skipped.push(unlisted(error, root)?),
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

/// The label of each path, and the names of the classes: those of the folders of the first level, or of the second below
/// parts such as `train`; sorted by their bytes. A picture in no such folder has none.
pub(super) fn labels<'a>(
    paths: impl Iterator<Item = &'a Path> + Clone,
    has_parts: bool,
) -> (Vec<Option<usize>>, Vec<String>) {
    let class = |path: &'a Path| class(path, usize::from(has_parts));
    let names: BTreeSet<&OsStr> = paths.clone().filter_map(class).collect();
    let label_from_name: BTreeMap<&OsStr, usize> = names.iter().copied().zip(0..).collect();
    let label = |path| label_from_name.get(class(path)?).copied();
    (
        paths.map(label).collect(),
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
