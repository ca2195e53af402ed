//! A model file, with metadata from other sources.

use std::path::PathBuf;

use crate::backbone::Normalization;

/// A model file, with metadata from other sources.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalModel {
    /// The file.
    pub file: PathBuf,
    /// Metadata from the hub.
    pub described: Described,
}

/// Metadata from other sources; the file's own takes precedence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    /// timm name of the backbone.
    pub encoder: Option<String>,
    /// What it was trained with.
    pub normalization: Option<Normalization>,
}
