//! What one file of a folder is.

use std::fs::{self, DirEntry};
use std::panic::catch_unwind;
use std::path::Path;

use image::ImageFormat;

use crate::data::decode::header::{Header, read_opened};
use crate::data::folder::index::record::{header_of_words, words_of_header};
use crate::data::storage::limits::unusable_size;
use crate::data::storage::names::is_resource_fork;
use crate::data::storage::opened::Opened;
use crate::data::storage::shards::members::CachedKind;
use crate::data::storage::stamp::Stamp;
use crate::error::{Error, Result};

/// What one file of the folder is.
#[derive(Debug)]
pub(in crate::data) enum FileKind {
    Image(Header, Stamp),
    Other,
    Skipped(String),
}

impl FileKind {
    /// Opens a file and reads its header.
    pub fn read(path: &Path, max_pixels: u64) -> Self {
        let header = || -> Result<_> {
            let opened = Opened::open(path)?;
            // before the header: one that changes meanwhile counts as changed
            let stamp = opened.stamp();
            Ok((read_opened(opened, path, max_pixels)?, stamp))
        };
        // a decoder that panics on a damaged file must lose that file only
        let header = catch_unwind(header)
            .unwrap_or_else(|_| Err(Error::data(path, "the decoder failed on it")));
        match header {
            Ok((None, _)) => Self::Other,
            Ok((Some(header), stamp)) => {
                match unusable_size(header.width, header.height, max_pixels) {
                    Some(reason) => Self::Skipped(reason),
                    None => Self::Image(header, stamp),
                }
            }
            Err(error) => Self::Skipped(error.without_path()),
        }
    }
}

impl FileKind {
    /// None of what is to be read.
    pub fn of_known(known: CachedKind) -> Option<Self> {
        match known {
            CachedKind::Image(words, stamp) => Some(Self::Image(header_of_words(words)?, stamp)),
            CachedKind::Other => Some(Self::Other),
            CachedKind::Unread => None,
        }
    }

    /// As an index of a shard keeps it.
    pub fn known(&self) -> CachedKind {
        match self {
            Self::Image(header, stamp) => words_of_header(*header)
                .map_or(CachedKind::Unread, |words| CachedKind::Image(words, *stamp)),
            Self::Other => CachedKind::Other,
            Self::Skipped(_) => CachedKind::Unread,
        }
    }
}

/// What a summary calls a kind of file.
pub(in crate::data) fn kind(format: ImageFormat) -> String {
    format!("{format:?}").to_lowercase()
}

/// What an entry of a folder is; links are followed.
pub(super) enum What {
    Folder,
    File,
    /// A pipe or socket: reading it could wait for ever. Or what macOS keeps beside a file.
    Other,
}

/// What an entry of a folder is.
///
/// # Errors
/// Why it is left out.
pub(super) fn what(
    entry: &DirEntry,
    root: &Path,
    folder: &Path,
) -> std::result::Result<What, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut kind = entry.file_type().map_err(words)?;
    if kind.is_symlink() {
        kind = fs::metadata(entry.path()).map_err(words)?.file_type();
        if kind.is_dir() {
            let target = fs::canonicalize(entry.path()).map_err(words)?;
            let inside = folder.ancestors().take_while(|path| path.starts_with(root));
            let mut parents = inside.filter_map(|path| fs::canonicalize(path).ok());
            if parents.any(|parent| parent == target) {
                return Err("a link to one of its parent folders".to_owned());
            }
        }
    }
    Ok(match (kind.is_dir(), kind.is_file()) {
        (true, _) => What::Folder,
        (_, true) if !is_resource_fork(&entry.file_name()) => What::File,
        _ => What::Other,
    })
}
