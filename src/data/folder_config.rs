//! How an image folder is read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a folder is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// Images with more pixels are skipped. Default 100_000_000.
    pub max_pixels: u64,
    /// Images whose shorter side is longer are reduced to it first, in pixels. Default none (with `cache`, twice
    /// `method.image_size`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
    /// Folder that keeps reduced images, so that each is decoded once and not in each epoch. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Largest size of the cache, in MiB. Default 16384.
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
