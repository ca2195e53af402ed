//! What a shard holds.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::storage::stamp::Stamp;

/// Where a file lies in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// First byte in an archive, row of a table.
    pub offset: u64,
    /// Bytes in an archive.
    pub length: u64,
}

/// What a file of a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::data) enum CachedKind {
    /// An image: its header as numbers.
    Image([u32; 3], Stamp),
    Other,
    /// Looked at again by each start: what could not be read may be well then.
    Unread,
}

/// A file of a shard that may be an image.
#[derive(Debug)]
pub(in crate::data) struct Member {
    /// Within the shard, without `.` and `..`.
    pub path: PathBuf,
    /// Its class where a file beside it says so (`.cls`, `.json`).
    pub class: Option<Arc<str>>,
    /// What it is, where that is known from an earlier start.
    pub known: Option<CachedKind>,
}

/// What a shard holds.
#[derive(Debug, Default)]
pub(in crate::data) struct Members {
    /// In the order of their paths.
    pub members: Vec<Member>,
    /// Files that cannot be images: labels, links.
    pub others: usize,
    /// What is left out, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A name in a shard without what leads elsewhere: `/`, `.` and `..`.
pub(super) fn plain(path: &Path) -> PathBuf {
    let parts = path.components();
    parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}
