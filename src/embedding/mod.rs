//! Features of images by a model file, on any device, without naming a backend.
//!
//! ```no_run
//! use ibot::device::{BackendChoice, select};
//! use ibot::embedding::Embedder;
//! use ibot::files::model::ModelOptions;
//!
//! fn main() -> ibot::Result<()> {
//!     let device = select(BackendChoice::Auto, None)?;
//!     let embedder = Embedder::load("teacher.safetensors".as_ref(), &ModelOptions::default(), &device)?;
//!     let image = image::open("cat.png").expect("an image").to_rgb8();
//!     let feature = embedder.embed(&[image])?;
//!     println!("{} numbers", feature.cls.len());
//!     Ok(())
//! }
//! ```
//!
//! - `embedder`: one model on one device
//! - `engine`: the same behind one type for all backends
//! - `folder`: all images of a folder; `patches`: the patches of all images, batch by batch
//! - `outliers`: patches that look like none of other images
//! - `tiles`: tiles of images far larger than the input
//! - `segmentation`: patches with the masks under them, and the masks that classifiers of patches predict
//! - `embedded`: features with their paths and classes; `table`: the same as a file
//! - `reuse`: the same, computed only for images that are new or changed; `stamp`: how that is known;
//!   `on_disk`: the same of a table without a folder
//! - `share`: the same by several ranks
//! - `classified`: predictions of a file's classifier

mod classified;
mod embedded;
mod embedder;
mod engine;
mod folder;
mod on_disk;
mod outliers;
mod patches;
mod reuse;
mod segmentation;
mod share;
mod stamp;
mod table;
mod tiles;

pub use classified::{Classification, Classified, classify, write_classified};
pub(crate) use embedded::NOT_FINITE;
pub use embedded::{Embedded, FeatureKind};
pub use embedder::{AttentionMaps, Embedder, Embeddings, seen};
pub(crate) use engine::{Made, Wanted};
pub use folder::{FolderRequest, embed_folder};
pub use on_disk::OnDisk;
pub use outliers::{PatchDistances, normal_patches, patch_distances};
pub use patches::{PatchBatch, PatchRequest, Visited, embed_patches, visit_patches};
pub use reuse::{Reused, embed_changed};
pub use segmentation::{PatchScores, Segmented, patch_rows, segment};
pub use stamp::FileStamp;
pub use table::{
    ColumnValues, EmbeddingTable, FeatureStore, ImageColumns, PatchOrigin, PatchOwner, PatchShape,
    PatchTable, TableFormat, TableKind, TileTable,
};
pub use tiles::{EmbeddedTiles, embed_tiles};
