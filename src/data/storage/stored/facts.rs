//! What is known of a file without reading it.

use std::fs::Metadata;
use std::sync::Arc;
use std::time::SystemTime;

/// What is known of a file without reading it.
#[derive(Debug, Clone)]
pub(in crate::data) struct Facts {
    /// Bytes.
    pub length: u64,
    pub modified: Option<SystemTime>,
    /// What a server calls this version of an object.
    pub tag: Option<Arc<str>>,
    /// Whether it is no folder, pipe or device.
    pub is_file: bool,
}

impl Facts {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            tag: None,
            is_file: metadata.is_file(),
        }
    }
}
