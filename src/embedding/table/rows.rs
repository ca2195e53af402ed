//! A table of embeddings in memory.

use std::path::Path;

use crate::embedding::embedded::Embedded;
use crate::error::{Error, Result};
use crate::path_text::path_text;

/// Embeddings of pictures, with where each is from.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingTable {
    /// The picture of each row, absolute, `[B]`; see [`crate::path_text`].
    pub paths: Vec<String>,
    /// Its class, where it has one, `[B]`.
    pub labels: Vec<Option<String>>,
    /// Width D.
    pub width: usize,
    /// Row-major `[B, D]`.
    pub features: Vec<f32>,
    /// BLAKE3 of the model file that made them; kept by `.safetensors` alone.
    pub model: Option<String>,
    /// Which features of that model they are, [`crate::embedding::FolderRequest::recipe`]; kept by `.safetensors` alone.
    pub recipe: Option<String>,
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
        }
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
        if labels != rows || rows.checked_mul(width) != Some(values) {
            let reason = format!(
                "{rows} paths do not match {labels} labels and {values} values in rows of {width}"
            );
            return Err(Error::data(path, reason));
        }
        Ok(())
    }
}
