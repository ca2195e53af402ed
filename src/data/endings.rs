//! What holds many images, by the ending of its name.

use std::path::Path;

/// Archives and tables that have images in them.
const TAR: &str = "tar";
const PARQUET: &str = "parquet";
/// Lists of files that have images in them.
const TEXT: &str = "txt";
const CSV: &str = "csv";

/// Whether a file has images in it.
pub(super) fn is_shard(path: &Path) -> bool {
    has_one_of(path, &[TAR, PARQUET])
}

/// Whether a file is a Parquet table.
pub(super) fn is_parquet(path: &Path) -> bool {
    has_one_of(path, &[PARQUET])
}

/// Whether a file names others.
pub(super) fn is_list(path: &Path) -> bool {
    has_one_of(path, &[TEXT, CSV])
}

/// Whether a list has columns.
pub(super) fn is_csv(path: &Path) -> bool {
    has_one_of(path, &[CSV])
}

fn has_one_of(path: &Path, endings: &[&str]) -> bool {
    let found = path.extension();
    let is = |ending: &&str| found.is_some_and(|found| found.eq_ignore_ascii_case(ending));
    endings.iter().any(is)
}
