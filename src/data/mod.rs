//! Pictures: an image folder, their decoding, the random views of them, and a loader that prepares batches ahead.
//!
//! - [`folder`]: what a folder holds, found by content; `layout`: which of its folders are classes; `summary`: that in words
//! - [`header`]: the first bytes of a picture file; `kind`: its format by them, and why others are left out;
//!   [`drawing`]: the mark of what this program draws
//! - [`decode`]: a picture file as 8-bit RGB; `thumbnails`: large ones reduced, and kept from one epoch to the next
//! - [`augment`]: the settings; [`crop`], [`photometric`]: the operations; [`view`]: one random view
//! - `label_map`: the class of each pixel, for evaluation; `masked`: pictures with such masks
//! - [`pixels`]: what batches hold, bytes or floats; `pool`: worker threads that give batches in order; [`loader`]: batches
//!   to train on; [`evaluation`]: to evaluate, on the part of a picture that `eval_fit` gives
//!
//! Whatever is random is a pure function of (seed, epoch, sample index, view number), see [`crate::random`].

pub mod augment;
pub mod bench;
pub mod crop;
pub mod decode;
pub mod demo;
pub mod drawing;
mod eval_fit;
pub mod evaluation;
pub mod folder;
mod folder_config;
pub mod header;
mod kind;
mod label_map;
mod layout;
mod limits;
pub mod loader;
mod masked;
pub mod photometric;
mod pictures;
pub mod pixels;
mod pool;
mod summary;
mod thumbnails;
pub mod view;

use std::path::PathBuf;

use image::RgbImage;

use crate::error::Result;

pub use augment::AugmentConfig;
pub use bench::{LoaderSpeed, bench_loader};
pub use eval_fit::EvalFit;
pub use evaluation::{EvalBatch, EvalBatches, eval_batches};
pub use folder::ImageFolder;
pub use folder_config::FolderConfig;
pub use label_map::{ALPHA_CLASSES, IGNORED, LabelMap};
pub use layout::Parts;
pub use loader::{Batch, Loader, LoaderConfig, Position, TrainViews};
pub use masked::{MaskedPictures, Masks};
pub use pixels::Pixels;
pub use summary::ScanSummary;

/// Where a loader takes its pictures from.
pub trait PictureSource: Send + Sync + 'static {
    /// Number of pictures, usable or not.
    fn len(&self) -> usize;

    /// Whether there is no picture.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to call picture `index` in a message.
    fn name(&self, index: usize) -> PathBuf;

    /// Class of picture `index`; None without one.
    fn label(&self, _index: usize) -> Option<usize> {
        None
    }

    /// Picture `index`.
    ///
    /// # Errors
    /// It cannot be read; the loader then skips it for good and reports that.
    fn decode(&self, index: usize) -> Result<RgbImage>;

    /// Bytes of all decoded pictures together; a loader keeps them in memory if they are few.
    fn decoded_bytes(&self) -> u64 {
        u64::MAX
    }
}
