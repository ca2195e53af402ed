//! Compressed archives, which are refused.

use std::path::Path;

use crate::error::{Error, Result};

/// Why a compressed archive is refused.
pub(super) const COMPRESSED: &str = "a compressed archive, which cannot be read from the middle: make it a plain .tar, for example with `gunzip` or \
                          `zstd -d` (images are compressed already)";
/// Endings of such archives.
const COMPRESSED_ENDINGS: [&str; 8] = [
    ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip",
];

/// Refuses a compressed archive by its name.
///
/// # Errors
/// [`Error::Data`] that says what to do.
pub(in crate::data) fn refuse_compressed(path: &Path) -> Result<()> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    match COMPRESSED_ENDINGS
        .iter()
        .any(|ending| name.ends_with(ending))
    {
        true => Err(Error::data(path, COMPRESSED)),
        false => Ok(()),
    }
}
