//! Features with their paths and classes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::embedding::stamp::FileStamp;
use crate::eval::FeatureSet;

/// What errors say of an image with such features.
pub(crate) const NOT_FINITE: &str =
    "its features are not finite; with `precision` f16, numbers above 65 504 are not: try f32";

/// Which feature of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// The class token (or the model's pooled feature).
    #[default]
    Cls,
    /// The mean of the patch tokens.
    Patch,
    /// Both, concatenated.
    Both,
}

impl FeatureKind {
    /// Features that it joins.
    pub(super) fn parts(self) -> usize {
        match self {
            Self::Cls | Self::Patch => 1,
            Self::Both => 2,
        }
    }
}

/// The images of a folder that could be read, with their features.
#[derive(Debug, Clone, Default)]
pub struct Embedded {
    /// Features and classes, in the folder's order.
    pub set: FeatureSet,
    /// Path of each image, absolute.
    pub paths: Vec<PathBuf>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Images that could not be read, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// Whether `progress` ended the work before the last image.
    pub is_cut_short: bool,
    /// [`crate::embedding::FolderRequest::recipe`] of the features.
    pub recipe: String,
    /// [`crate::embedding::Embedder::input`] of the features.
    pub input: String,
    /// Size and time of each image's file before it was read.
    pub stamps: Vec<Option<FileStamp>>,
}

impl Embedded {
    /// Name of the class of each image, where it has one.
    pub fn class_names(&self) -> Vec<Option<String>> {
        let name = |label: &Option<usize>| label.and_then(|at| self.classes.get(at).cloned());
        self.set.labels.iter().map(name).collect()
    }
}
