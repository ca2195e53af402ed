//! Names of files and folders as bytes.

use std::ffi::OsStr;

/// The name of bytes that [`OsStr::as_encoded_bytes`] gave, or [`is_name`] accepted.
#[cfg(unix)]
pub(super) fn name_of(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

#[cfg(not(unix))]
pub(super) fn name_of(bytes: &[u8]) -> &OsStr {
    // SAFETY: the bytes are whole names, of `as_encoded_bytes` in this process or, out of a file, UTF-8 (`is_name`).
    unsafe { OsStr::from_encoded_bytes_unchecked(bytes) }
}

/// Whether bytes out of a file name one entry of a folder, and nothing outside of it.
pub(super) fn is_name(bytes: &[u8]) -> bool {
    let parts = |byte: &u8| *byte == 0 || std::path::is_separator(char::from(*byte));
    let is_one = !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(parts);
    is_one && is_text(bytes)
}

/// Whether a name can be written to a file.
#[cfg(unix)]
pub(super) fn is_text(_: &[u8]) -> bool {
    true
}

/// On Windows, those of other bytes would have to be checked for what its names may hold; `C:` is a drive.
#[cfg(not(unix))]
pub(super) fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(':'))
}
