//! What files and folders are, by their names: archives, tables and lists of images, and what tools leave beside images.

use std::ffi::OsStr;
use std::path::Path;

/// Archives and tables that have images in them.
const TAR: &str = "tar";
const PARQUET: &str = "parquet";
/// Lists of files that have images in them.
const TEXT: &str = "txt";
const CSV: &str = "csv";

/// Folders that systems and tools create among images, besides those whose names begin with a dot (`.ipynb_checkpoints`,
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

/// Whether a file has images in it.
pub(in crate::data) fn is_shard(path: &Path) -> bool {
    has_one_of(path, &[TAR, PARQUET])
}

/// Whether a file is a Parquet table.
pub(super) fn is_parquet(path: &Path) -> bool {
    has_one_of(path, &[PARQUET])
}

/// Whether a file names others.
pub(in crate::data) fn is_list(path: &Path) -> bool {
    has_one_of(path, &[TEXT, CSV])
}

/// Whether a list has columns.
pub(in crate::data) fn is_csv(path: &Path) -> bool {
    has_one_of(path, &[CSV])
}

/// Whether a folder of this name is left out.
pub(in crate::data) fn is_of_a_tool(name: &OsStr) -> bool {
    let is_hidden = name.as_encoded_bytes().starts_with(b".");
    is_hidden || OF_TOOLS.iter().any(|tool| name.eq_ignore_ascii_case(tool))
}

/// Whether a file holds what macOS keeps beside one of the name without `._` on other file systems.
pub(in crate::data) fn is_resource_fork(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"._")
}

fn has_one_of(path: &Path, endings: &[&str]) -> bool {
    let found = path.extension();
    let is = |ending: &&str| found.is_some_and(|found| found.eq_ignore_ascii_case(ending));
    endings.iter().any(is)
}
