//! A model file, and what is known of it from elsewhere.

use std::path::PathBuf;

use crate::backbone::Normalization;

/// A model file, and what is known of it from elsewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalModel {
    /// The file.
    pub file: PathBuf,
    /// What the hub says of it.
    pub described: Described,
}

/// What is known of a file from elsewhere; what the file says itself goes before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    /// timm name of the backbone.
    pub encoder: Option<String>,
    /// What it was trained with.
    pub normalization: Option<Normalization>,
}
