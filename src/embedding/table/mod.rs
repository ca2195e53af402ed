//! Embeddings of pictures on disk: a row a picture, in four formats.
//!
//! | ending         | holds                                                              | for                   |
//! |----------------|--------------------------------------------------------------------|-----------------------|
//! | `.npy`         | features `[B, D]`; `FILE.paths.csv` beside it has path and label   | NumPy                 |
//! | `.csv`         | path, label, f0, f1, ...                                           | anything, small       |
//! | `.parquet`     | path, label, embedding (a list of D floats)                        | pandas, Polars, DuckDB|
//! | `.safetensors` | features `[B, D]`; paths and labels as JSON in the metadata        | PyTorch, and this crate|
//!
//! Each is written under a temporary name, synced and renamed: the final name is never half a file.

mod csv;
mod npy;
mod parquet;
mod safetensors;

use std::path::Path;

use crate::embedding::embedded::Embedded;
use crate::error::{Error, Result};
use crate::path_text::path_text;
use crate::unfinished::check_writable;
pub(super) use csv::field as csv_field;

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

/// How a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// `.npy`, with `.paths.csv` beside it.
    Npy,
    /// `.csv`.
    Csv,
    /// `.parquet`.
    Parquet,
    /// `.safetensors`.
    Safetensors,
}

impl TableFormat {
    /// All of them, by their endings.
    pub const KNOWN: [(&'static str, Self); 4] = [
        ("npy", Self::Npy),
        ("csv", Self::Csv),
        ("parquet", Self::Parquet),
        ("safetensors", Self::Safetensors),
    ];

    /// What the ending of a file's name asks for; capitals count as small letters.
    ///
    /// # Errors
    /// [`Error::Data`] where it is no known one, with the known ones.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default();
        let known = Self::KNOWN
            .iter()
            .find(|(known, _)| ending.eq_ignore_ascii_case(known));
        known.map(|(_, format)| *format).ok_or_else(|| {
            let endings = Self::KNOWN.map(|(known, _)| format!(".{known}"));
            let reason = format!(
                "embeddings go to a file that ends in one of {}",
                endings.join(", ")
            );
            Error::data(path, reason)
        })
    }
}

impl EmbeddingTable {
    /// The features of a folder by the model whose file has this hash.
    pub fn of(embedded: Embedded, model: &str) -> Self {
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

    /// Refuses a path that [`Self::write`] will not be able to write to, before the work that leads to a table.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known, the folder is missing or the path is one, [`Error::Io`] where a
    /// file cannot be made there.
    pub fn check_path(path: &Path) -> Result<()> {
        let format = TableFormat::of(path)?;
        check_writable(path)?;
        match format {
            TableFormat::Npy => check_writable(&npy::paths_file(path)),
            _ => Ok(()),
        }
    }

    /// Writes the table, whole or not at all, in the format that the ending of `path` names; replaces a file of that name.
    ///
    /// The two files of `.npy` are renamed one after the other: a crash between the renames leaves the new paths beside
    /// the features that were there before.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known, the table's parts do not fit each other, or the format cannot hold
    /// it; [`Error::Io`] where the folder is missing, the disk is full or cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let format = TableFormat::of(path)?;
        self.check(path)?;
        match format {
            TableFormat::Npy => npy::write(self, path),
            TableFormat::Csv => csv::write(self, path),
            TableFormat::Parquet => parquet::write(self, path),
            TableFormat::Safetensors => safetensors::write(self, path),
        }
    }

    /// Reads a table that [`Self::write`] wrote as `.safetensors`.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is another format or damaged, or has another number of paths, labels or rows;
    /// [`Error::Io`] where it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        if TableFormat::of(path)? != TableFormat::Safetensors {
            let reason = "only embeddings written as .safetensors can be read back";
            return Err(Error::data(path, reason));
        }
        let table = safetensors::read(path)?;
        table.check(path)?;
        Ok(table)
    }

    /// Rows, each as (path, label, features `[D]`).
    fn rows(&self) -> impl Iterator<Item = (&str, Option<&str>, &[f32])> {
        let labels = self.labels.iter().map(Option::as_deref);
        let features = self.features.chunks_exact(self.width);
        let paths = self.paths.iter().map(String::as_str);
        paths
            .zip(labels)
            .zip(features)
            .map(|((path, label), features)| (path, label, features))
    }

    /// Refuses a table whose parts do not fit each other.
    fn check(&self, path: &Path) -> Result<()> {
        let (rows, width) = (self.len(), self.width);
        let (labels, values) = (self.labels.len(), self.features.len());
        if width == 0 {
            return Err(Error::data(path, "embeddings of width 0"));
        }
        if labels != rows || rows.checked_mul(width) != Some(values) {
            let reason = format!(
                "{rows} paths do not go with {labels} labels and {values} values of rows of {width}"
            );
            return Err(Error::data(path, reason));
        }
        Ok(())
    }
}
