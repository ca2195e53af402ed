//! Segmentation by frozen patch features: each patch gets a score for each class, and the scores are brought to the pixels.
//!
//! - `rows`: patches, and the classes of the pixels under each
//! - `probe`: a linear classifier of patches; `bank`: their nearest neighbors
//! - `upsample`: scores of patches as a mask

mod bank;
mod probe;
mod rows;
mod upsample;

pub use bank::PatchBank;
pub use probe::{PatchProbe, PatchProbeConfig};
pub use rows::{Cover, PatchRows, covers};
pub use upsample::upsampled_classes;
