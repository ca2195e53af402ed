//! Embeddings of pictures on disk: a row a picture, in four formats.
//!
//! | ending         | holds                                                              | for                   |
//! |----------------|--------------------------------------------------------------------|-----------------------|
//! | `.npy`         | features `[B, D]`; `FILE.paths.csv` beside it has path and label   | NumPy                 |
//! | `.csv`         | path, label, f0, f1, ...                                           | anything, small       |
//! | `.parquet`     | path, label, embedding (a list of D floats)                        | pandas, Polars, DuckDB|
//! | `.safetensors` | features `[B, D]`; paths and labels as JSON in the metadata        | PyTorch, and this crate|
//!
//! Those of patches are in `patches`.
//!
//! Each is written under a temporary name, synced and renamed: the final name is never half a file.

mod csv;
mod npy;
mod parquet;
mod patches;
mod rows;
mod safetensors;

use std::path::Path;

use crate::error::{Error, Result};
use crate::unfinished::check_writable;
pub(super) use csv::field as csv_field;
pub use patches::{PatchOrigin, PatchOwner, PatchShape, PatchTable};
pub use rows::EmbeddingTable;

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

    /// The format by a file's extension, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::Data`] where it is no known one, with the known ones.
    pub fn from_path(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default();
        let known = Self::KNOWN
            .iter()
            .find(|(known, _)| ending.eq_ignore_ascii_case(known));
        known.map(|(_, format)| *format).ok_or_else(|| {
            let endings = Self::KNOWN.map(|(known, _)| format!(".{known}"));
            let reason = format!("the file name must end in one of {}", endings.join(", "));
            Error::data(path, reason)
        })
    }
}

impl EmbeddingTable {
    /// Refuses a path that [`Self::write`] cannot write to, before the work starts.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known, the folder is missing or the path is one, [`Error::Io`] where a
    /// file cannot be made there.
    pub fn check_path(path: &Path) -> Result<()> {
        let format = TableFormat::from_path(path)?;
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
        let format = TableFormat::from_path(path)?;
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
        if TableFormat::from_path(path)? != TableFormat::Safetensors {
            let reason = "only embeddings written as .safetensors can be read";
            return Err(Error::data(path, reason));
        }
        let table = safetensors::read(path)?;
        table.check(path)?;
        Ok(table)
    }
}
