//! How an image folder is read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a folder is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// Pictures with more pixels are skipped; default 100 million.
    pub max_pixels: u64,
    /// Pictures whose shorter side has more pixels are reduced to so many before anything else; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
    /// Folder that keeps reduced pictures, so that each is decoded once and not in each epoch; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Most MiB that the cache may take; default 16 GiB.
    pub cache_mib: u64,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            shorter_side: None,
            cache: None,
            cache_mib: 16 << 10,
        }
    }
}
