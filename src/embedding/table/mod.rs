//! Embeddings of images on disk: a row an image, in four formats.
//!
//! | ending         | holds                                                              | for                   |
//! |----------------|--------------------------------------------------------------------|-----------------------|
//! | `.npy`         | features `[B, D]`; `FILE.paths.csv` beside it has path and label   | NumPy                 |
//! | `.csv`         | path, label, f0, f1, ...                                           | anything, small       |
//! | `.parquet`     | path, label, embedding (a list of D floats)                        | pandas, Polars, DuckDB|
//! | `.safetensors` | features `[B, D]`; paths and labels as JSON in the metadata        | PyTorch, and this crate|
//!
//! Those of patches are in `patches`, what was found about images in `columns`.
//!
//! Each is written under a temporary name, synced and renamed: the final name is never half a file.

mod columns;
mod csv;
mod format;
mod npy;
mod parquet;
mod parquet_reader;
mod patches;
mod rows;
mod safetensors;
mod tiles;

use std::path::{Path, PathBuf};

use crate::data::{ImageFolder, ImageSource as _};
use crate::error::{Error, Result};
use crate::path_text::{absolute, path_text};
pub use columns::{ColumnValues, ImageColumns};
pub use format::TableFormat;
use format::{check_files, files_of};
pub use patches::{PatchOrigin, PatchOwner, PatchShape, PatchTable};
pub use rows::EmbeddingTable;
pub use tiles::TileTable;

impl EmbeddingTable {
    /// Refuses a path that [`Self::write`] cannot write to, before the work starts.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known, the folder is missing or the path is one, or where the file beside a
    /// `.npy` would replace one without an array; [`Error::Io`] where a file cannot be made there.
    pub fn check_path(path: &Path) -> Result<()> {
        TableFormat::from_path(path)?;
        check_files(&Self::written(path))
    }

    /// The files that [`Self::write`] makes: `path`, and the paths beside a `.npy`.
    pub fn written(path: &Path) -> Vec<PathBuf> {
        files_of(path, npy::paths_file)
    }

    /// Refuses to write over a model, which has the ending of a table: an exchange of two names would cost a training.
    ///
    /// # Errors
    /// [`Error::Data`] where `path` is there, ends in `.safetensors` and holds no features.
    pub fn refuse_other(path: &Path) -> Result<()> {
        let may_be_model = matches!(TableFormat::from_path(path), Ok(TableFormat::Safetensors));
        if !may_be_model || !path.exists() || safetensors::is_table(path) {
            return Ok(());
        }
        let reason = "exists and holds no features, so it may be a model: give another name, or remove it first";
        Err(Error::data(path, reason))
    }

    /// Refuses a format that cannot hold the names of a folder's images: before their features are computed, which would be lost.
    ///
    /// # Errors
    /// [`Error::Data`] where `path` ends in `.safetensors` and the images are about a million.
    pub fn check_names(path: &Path, folder: &ImageFolder) -> Result<()> {
        let is_limited = TableFormat::from_path(path)? == TableFormat::Safetensors;
        // the longest paths of so few images fit
        if !is_limited || folder.len() < 10_000 {
            return Ok(());
        }
        let name = |at| Ok(path_text(&absolute(folder.name(at))?));
        let class = |label: Option<usize>| label.and_then(|at| folder.classes().get(at).cloned());
        let paths = (0..folder.len()).map(name).collect::<Result<_>>()?;
        let labels = folder.labels().into_iter().map(class).collect();
        safetensors::check_names(path, paths, labels)
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

    /// Reads a table that [`Self::write`] wrote.
    ///
    /// An empty `.parquet` is refused, as it does not say how wide its rows would be.
    ///
    /// # Errors
    /// [`Error::Data`] where the file is another format or damaged, has another number of paths, labels or rows, or holds
    /// features of tiles; [`Error::Io`] where it, or the paths beside a `.npy`, cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let format = TableFormat::from_path(path)?;
        let of_tiles = || {
            let reason = "holds features of tiles, but those of whole images are needed: `ibot embed` without a tile size writes \
                          them";
            Error::data(path, reason)
        };
        // its array looks like one of images
        if format == TableFormat::Npy && tiles::is_of_tiles(path, format) {
            return Err(of_tiles());
        }
        let table = match format {
            TableFormat::Npy => npy::read(path),
            TableFormat::Csv => csv::read(path),
            TableFormat::Parquet => parquet_reader::read(path),
            TableFormat::Safetensors => safetensors::read(path),
        };
        let table = table.map_err(|error| {
            if tiles::is_of_tiles(path, format) {
                of_tiles()
            } else {
                error
            }
        })?;
        table.check(path)?;
        Ok(table)
    }
}
