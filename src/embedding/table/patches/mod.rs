//! Patch features of images on disk, written image by image: at no time are all of them in memory.
//!
//! | ending         | holds                                                                                        |
//! |----------------|----------------------------------------------------------------------------------------------|
//! | `.npy`         | `[B, rows, columns, D]`; `FILE.paths.csv` beside it has path and label of each of the B       |
//! | `.safetensors` | `patches` `[B, rows, columns, D]`; paths and labels as JSON in the metadata                   |
//! | `.csv`         | a line a patch: path, label, row, column, f0, f1, ...                                         |
//! | `.parquet`     | a row a patch: path, label, row, column, embedding (a list of D floats)                       |
//!
//! Row 0 is at the top, column 0 at the left; patches lie row by row. The final name is never half a file.

mod array;
mod listed;
mod shape;

use std::path::Path;

use crate::embedding::table::format::TableFormat;
use crate::error::{Error, Result};
use array::{Array, ArrayKind};
use listed::{Listed, ListedKind};
pub use shape::{PatchOrigin, PatchOwner, PatchShape};

/// A table of patch features that is being written.
pub struct PatchTable {
    shape: PatchShape,
    owners: Vec<PatchOwner>,
    /// Those of the owners whose patches are written.
    written: Vec<usize>,
    file: Writing,
}

enum Writing {
    Array(Array),
    Listed(Box<Listed>),
}

impl PatchTable {
    /// Begins a table at `path`, in the format of its ending, of patches of at most these images.
    ///
    /// # Errors
    /// [`Error::Data`] where the ending is not known, or the format cannot hold so many paths or such a width;
    /// [`Error::Io`] where no file can be made there.
    pub fn create(
        path: &Path,
        shape: PatchShape,
        owners: Vec<PatchOwner>,
        origin: PatchOrigin,
    ) -> Result<Self> {
        let file = match TableFormat::from_path(path)? {
            TableFormat::Npy => Writing::Array(Array::create(
                path,
                ArrayKind::Npy,
                &shape,
                &owners,
                origin,
            )?),
            TableFormat::Safetensors => {
                let kind = ArrayKind::Safetensors;
                Writing::Array(Array::create(path, kind, &shape, &owners, origin)?)
            }
            TableFormat::Csv => {
                Writing::Listed(Box::new(Listed::create(path, ListedKind::Csv, &shape)?))
            }
            TableFormat::Parquet => {
                Writing::Listed(Box::new(Listed::create(path, ListedKind::Parquet, &shape)?))
            }
        };
        Ok(Self {
            shape,
            owners,
            written: Vec::new(),
            file,
        })
    }

    /// Number of images whose patches are written.
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether no patch is written.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// What the patches of every image have in common.
    pub fn shape(&self) -> &PatchShape {
        &self.shape
    }

    /// Appends the patches of the image at place `owner` of those that were announced.
    ///
    /// # Shapes
    /// `patches` is `[rows, columns, D]`.
    ///
    /// # Errors
    /// [`Error::Data`] where they have another shape, a value is not finite, or there is no such image; [`Error::Io`] where
    /// the disk is full.
    pub fn push(&mut self, owner: usize, patches: &[f32]) -> Result<()> {
        let Some(of) = self.owners.get(owner) else {
            let reason = format!("there is no image {owner} among {}", self.owners.len());
            return Err(Error::Embedding(reason));
        };
        if patches.len() != self.shape.values() {
            let ([rows, columns], width) = (self.shape.grid, self.shape.width);
            let reason = format!(
                "{} values are no patches of {rows} x {columns} x {width}",
                patches.len()
            );
            return Err(Error::data(&of.path, reason));
        }
        if patches.iter().any(|value| !value.is_finite()) {
            return Err(Error::data(&of.path, "its patch features are not finite"));
        }
        match &mut self.file {
            Writing::Array(array) => array.push(patches)?,
            Writing::Listed(listed) => listed.push(of, &self.shape, patches)?,
        }
        self.written.push(owner);
        Ok(())
    }

    /// Completes the table and gives it its name, which is `path` in the folder that it was begun in.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self, path: &Path) -> Result<()> {
        let owners: Vec<&PatchOwner> = self.written.iter().map(|at| &self.owners[*at]).collect();
        match self.file {
            Writing::Array(array) => array.finish(path, &self.shape, &owners),
            Writing::Listed(listed) => listed.finish(path),
        }
    }
}
