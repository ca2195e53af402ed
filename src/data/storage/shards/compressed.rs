//! Compressed archives, which are refused, or left out by name.

use std::io::{Read as _, Seek as _};
use std::path::Path;

use crate::data::storage::shards::window::Window;
use crate::error::{Error, Result};

/// Why a compressed archive is refused.
pub(in crate::data) const COMPRESSED: &str = "a compressed archive, which cannot be read from the middle: make it a plain .tar, for example with `gunzip` or \
                          `zstd -d` (images are compressed already), or unpack it";
/// Endings of such archives.
const COMPRESSED_ENDINGS: [&str; 8] = [
    ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip",
];

/// First bytes of compressed files: gzip, zstd, xz, bzip2, zip.
const MAGICS: [&[u8]; 5] = [
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ\0",
    b"BZh",
    b"PK\x03\x04",
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

/// Refuses a compressed archive by its first bytes, and goes back to them.
///
/// # Errors
/// [`Error::Data`] that says what to do; [`Error::Io`].
pub(super) fn refuse_compressed_bytes(path: &Path, file: &mut Window) -> Result<()> {
    let mut magic = Vec::new();
    let read = file.take(6).read_to_end(&mut magic);
    read.and_then(|_| file.rewind()).map_err(Error::io(path))?;
    if MAGICS.iter().any(|known| magic.starts_with(known)) {
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
