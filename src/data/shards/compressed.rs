//! Compressed archives, which are refused, or left out by name.

use std::path::Path;

use crate::error::{Error, Result};

/// Why a compressed archive is refused.
pub(in crate::data) const COMPRESSED: &str = "a compressed archive, which cannot be read from the middle: make it a plain .tar, for example with `gunzip` or \
                          `zstd -d` (images are compressed already), or unpack it";
/// Endings of such archives.
const COMPRESSED_ENDINGS: [&str; 8] = [
    ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip",
];

/// Refuses a compressed archive by its name.
///
/// # Errors
/// [`Error::Data`] that says what to do.
pub(in crate::data) fn refuse_compressed(path: &Path) -> Result<()> {
    if is_compressed(path) {
        Err(Error::data(path, COMPRESSED))
    } else {
        Ok(())
    }
}

/// Whether a file is a compressed archive, by its name.
pub(in crate::data) fn is_compressed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().to_lowercase();
    let is = |ending: &&str| name.ends_with(ending);
    COMPRESSED_ENDINGS.iter().any(is)
}
