//! Images: an image folder, their decoding, the random views of them, and a loader that prepares batches ahead.
//!
//! - [`folder`]: what a folder holds, found by content; `sources`: several folders, files and lists; `list_line`: a
//!   line of a list; `list_text`: its text; `list_table`: files and
//!   classes in columns; `layout`: which folders are
//!   classes; `summary`: that in words
//! - `index`: the images of one folder as records, which a file can hold; `folder_records`: those, or a list; `cache_folder`:
//!   where such files are; `opened`: a file, opened once; `bytes`: what it holds; `stamp`: whether it changed;
//!   `shards`: files in tar archives and Parquet tables; `stored`: files of disks and objects of servers
//! - [`header`]: the first bytes of an image file; `kind`: its format by them, and why others are left out;
//!   [`drawing`]: the mark of what this program draws
//! - `value_range`: which values become black and white; `value_counts`: how they are measured; `depth`: which images need it
//! - [`decode`]: an image file as 8-bit RGB; `thumbnails`: large ones reduced, and kept from one epoch to the next
//! - [`augment`]: the settings; [`crop`], [`photometric`]: the operations; [`view`]: one random view
//! - `tiles`: images far larger than a view, cut; `tile_grid`: where
//! - `inventory`: what a folder holds, in numbers; `survey`: that of images to train on and of those to evaluate on
//! - `mosaic`: the first views of a run on one image
//! - `label_map`: the class of each pixel, for evaluation; `masked`: images with such masks
//! - [`pixels`]: what batches hold, bytes or floats; `pool`, `open_batch`: worker threads that give batches in order; `order`: that of
//!   the images; `reading`, `pace`: whether workers wait for a disk; [`loader`]: batches to train on; [`evaluation`]: to evaluate, on the part of an image that `eval_fit` gives
//!
//! Whatever is random is a pure function of (seed, epoch, sample index, view number), see [`crate::random`].

pub mod augment;
pub mod bench;
mod budget;
mod bytes;
mod cache_folder;
pub mod crop;
pub mod decode;
pub mod demo;
mod depth;
pub mod drawing;
mod endings;
mod eval_fit;
pub mod evaluation;
pub mod folder;
mod folder_config;
mod folder_records;
pub mod header;
mod images;
mod index;
mod inventory;
mod kind;
mod label_map;
mod layout;
mod limits;
mod list_line;
mod list_table;
mod list_text;
pub mod loader;
mod loader_config;
mod masked;
mod measure;
mod mosaic;
mod open_batch;
mod opened;
mod order;
mod pace;
pub mod photometric;
pub mod pixels;
mod pool;
mod pool_state;
mod reading;
mod shards;
mod sources;
mod stamp;
mod stored;
mod summary;
mod survey;
mod thumbnails;
mod tile_grid;
mod tiles;
mod turned;
mod value_counts;
mod value_range;
pub mod view;

use std::path::PathBuf;

use image::RgbImage;

use crate::error::Result;

pub use augment::AugmentConfig;
pub use bench::{LoaderSpeed, bench_loader};
pub use depth::{Depth, Unused};
pub use eval_fit::EvalFit;
pub use evaluation::{EvalBatch, EvalBatches, eval_batches};
pub use folder::ImageFolder;
pub use folder_config::FolderConfig;
pub(crate) use images::none_usable;
pub use index::kept::IndexWork;
pub use inventory::{ClassCount, Inventory, LeftOut, Odd, SizeCount, equal_files};
pub use label_map::{ALPHA_CLASSES, IGNORE_INDEX, LabelMap};
pub use layout::Parts;
pub use loader::{Batch, Loader, Position, TrainViews};
pub use loader_config::LoaderConfig;
pub use masked::{MaskedImages, Masks};
pub use mosaic::views_mosaic;
pub use opened::{length_and_time, read_whole};
pub use order::Shuffle;
pub use pixels::Pixels;
pub(crate) use pool::check_workers;
pub use pool::workers_of_rank;
pub use reading::reading;
pub use sources::{check_source, parts_of};
pub use summary::ScanSummary;
pub use survey::{KeptFiles, Shared, Survey, SurveyConfig};
pub use tile_grid::{TileArea, TileGrid};
pub use tiles::Tiles;
pub use value_range::ValueRange;

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
    /// It cannot be read; the loader then skips it for good and reports that.
    fn decode(&self, index: usize) -> Result<RgbImage>;

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
