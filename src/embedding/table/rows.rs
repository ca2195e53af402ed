//! A table of embeddings in memory.

use std::path::Path;

use crate::embedding::embedded::Embedded;
use crate::embedding::stamp::FileStamp;
use crate::error::{Error, Result};
use crate::path_text::path_text;

/// Embeddings of images, with where each is from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbeddingTable {
    /// The image of each row, absolute, `[B]`; see [`crate::path_text`].
    pub paths: Vec<String>,
    /// Its class, where it has one, `[B]`.
    pub labels: Vec<Option<String>>,
    /// Width D.
    pub width: usize,
    /// Row-major `[B, D]`.
    pub features: Vec<f32>,
    /// BLAKE3 of the model file that made them; kept by `.safetensors` and `.parquet`.
    pub model: Option<String>,
    /// Which features of that model they are, [`crate::embedding::FolderRequest::recipe`]; kept by `.safetensors` and
    /// `.parquet`.
    pub recipe: Option<String>,
    /// How images became the model's input, [`crate::embedding::Embedder::input`]; kept by `.safetensors` alone.
    pub input: Option<String>,
    /// Size and time of the file of each image, `[B]`; none at all where the format does not keep them, which
    /// `.safetensors` alone does.
    pub stamps: Vec<Option<FileStamp>>,
}

impl EmbeddingTable {
    /// The features of a folder by the model whose file has this hash.
    pub fn new(embedded: Embedded, model: &str) -> Self {
        let labels = embedded.class_names();
        Self {
            paths: embedded.paths.iter().map(|path| path_text(path)).collect(),
            labels,
            width: embedded.set.width,
            features: embedded.set.features,
            model: Some(model.to_owned()),
            recipe: Some(embedded.recipe),
            input: Some(embedded.input),
            stamps: embedded.stamps,
        }
    }

    /// The rows at these places.
    pub fn rows_at(&self, places: &[usize]) -> Self {
        let features = places.iter().flat_map(|at| {
            let row = at * self.width..(at + 1) * self.width;
            &self.features[row]
        });
        Self {
            paths: places.iter().map(|at| self.paths[*at].clone()).collect(),
            labels: places.iter().map(|at| self.labels[*at].clone()).collect(),
            width: self.width,
            features: features.copied().collect(),
            model: self.model.clone(),
            recipe: self.recipe.clone(),
            input: self.input.clone(),
            stamps: if self.stamps.is_empty() {
                Vec::new()
            } else {
                places.iter().map(|at| self.stamps[*at]).collect()
            },
        }
    }

    /// Whether another table has rows of the same kind: features of one model, made in one way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let kind = |of: &Self| {
            (
                of.width,
                of.model.clone(),
                of.recipe.clone(),
                of.input.clone(),
            )
        };
        kind(self) == kind(other)
    }

    /// The features of a row, `[D]`.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.features[at * self.width..(at + 1) * self.width]
    }

    /// Size and time of a row's file, where they are known.
    pub fn stamp(&self, at: usize) -> Option<FileStamp> {
        self.stamps.get(at).copied().flatten()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Rows, each as (path, label, features `[D]`).
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, Option<&str>, &[f32])> {
        let labels = self.labels.iter().map(Option::as_deref);
        let features = self.features.chunks_exact(self.width);
        let paths = self.paths.iter().map(String::as_str);
        paths
            .zip(labels)
            .zip(features)
            .map(|((path, label), features)| (path, label, features))
    }

    /// Refuses a table whose parts do not fit each other.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let (rows, width) = (self.len(), self.width);
        let (labels, values) = (self.labels.len(), self.features.len());
        if width == 0 {
            return Err(Error::data(path, "embeddings of width 0"));
        }
        let stamps = self.stamps.len();
        if stamps != 0 && stamps != rows {
            let reason = format!("{rows} paths do not match the sizes and times of {stamps} files");
            return Err(Error::data(path, reason));
        }
        if labels != rows || rows.checked_mul(width) != Some(values) {
            let reason = format!(
                "{rows} paths do not match {labels} labels and {values} values in rows of {width}"
            );
            return Err(Error::data(path, reason));
        }
        Ok(())
    }
}
