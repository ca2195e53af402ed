//! Images: an image folder, their decoding, the random views of them, and a loader that prepares batches ahead.
//!
//! - `storage`: where the bytes come from: disks, servers, archives
//! - [`decode`]: an image file as 8-bit RGB
//! - [`folder`]: what a folder holds, found by content; `inventory`: that in numbers
//! - [`views`]: the random views of an image
//! - [`loader`]: batches of them, made ahead; and batches to evaluate on
//! - `tiles`: images far larger than a view, cut
//! - [`demo`]: images that this program makes
//!
//! Whatever is random is a pure function of (seed, epoch, sample index, view number), see [`crate::random`].

pub mod decode;
pub mod demo;
pub mod folder;
mod inventory;
pub mod loader;
mod storage;
mod tiles;
pub mod views;

use std::ops::Range;
use std::path::PathBuf;

use image::RgbImage;

use crate::error::Result;

pub use decode::depth::{Depth, Unused};
pub use decode::label_map::{ALPHA_CLASSES, IGNORE_INDEX, LabelMap};
pub use decode::value_range::ValueRange;
pub use decode::{drawing, header};
pub use folder::ImageFolder;
pub use folder::config::FolderConfig;
pub use folder::index::kept::IndexWork;
pub use folder::layout::Parts;
pub use folder::order::Shuffle;
pub use folder::sources::{check_source, parts_of};
pub use folder::summary::ScanSummary;
pub use inventory::survey::{KeptFiles, Shared, Survey, SurveyConfig};
pub use inventory::{ClassCount, Inventory, LeftOut, Odd, SizeCount, equal_files};
pub use loader::bench::{LoaderSpeed, bench_loader};
pub use loader::config::LoaderConfig;
pub use loader::evaluation::{EvalBatch, EvalBatches, eval_batches};
pub(crate) use loader::images::none_usable;
pub use loader::masked::{MaskedImages, Masks};
pub use loader::mosaic::views_mosaic;
pub(crate) use loader::pool::check_workers;
pub use loader::pool::workers_of_rank;
pub use loader::{Batch, Loader, Position, TrainViews};
pub use loader::{bench, evaluation};
pub(crate) use storage::failure::patiently;
pub use storage::opened::{length_and_time, read_whole};
pub use storage::reading::reading;
pub use tiles::Tiles;
pub use tiles::grid::{TileArea, TileGrid};
pub use views::augment::AugmentConfig;
pub use views::eval_fit::EvalFit;
pub use views::pixels::Pixels;
pub use views::{augment, crop, photometric, pixels, view};

/// Where a loader takes its images from.
pub trait ImageSource: Send + Sync + 'static {
    /// Number of images, usable or not.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to call image `index` in a message.
    fn name(&self, index: usize) -> PathBuf;

    /// Class of image `index`; None without one.
    fn label(&self, _index: usize) -> Option<usize> {
        None
    }

    /// Image `index`.
    ///
    /// # Errors
    /// It cannot be read, which a loader reports. After an [`Error::Io`](crate::Error::Io) that says nothing of the file, as of a
    /// disk or server that fails, it tries again in the next epoch; after any other it skips the image for good.
    fn decode(&self, index: usize) -> Result<RgbImage>;

    /// Places of the images that are cut from the same file as image `index`, which is decoded once for all of them.
    fn of_one_file(&self, index: usize) -> Range<usize> {
        index..index + 1
    }

    /// The order of all images in an epoch, as a function of the seed and the epoch; None for that of [`ImageSource::shuffle`].
    fn order(&self, _seed: u64, _epoch: usize) -> Option<Vec<usize>> {
        None
    }

    /// How the images of an epoch are mixed, where the source gives no order.
    fn shuffle(&self) -> Shuffle {
        Shuffle::All
    }

    /// Bytes of image `index` while it is decoded, about: a loader decodes only as many at a time as its memory holds. 0 where that
    /// is not known, which bounds nothing.
    fn image_bytes(&self, _index: usize) -> u64 {
        0
    }

    /// Bytes of all decoded images together; a loader keeps them in memory if they are few.
    fn decoded_bytes(&self) -> u64 {
        u64::MAX
    }
}
