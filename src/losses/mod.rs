//! Losses, as pure functions of their inputs, and the center, which moves only in [`Center::update`].

mod center;
mod cls;
mod koleo;
mod label;
mod patch;

pub use center::Center;
pub use cls::{ClsLogits, ClsLossInput, StreamedClsLossInput, cls_loss, streamed_cls_loss};
pub use koleo::koleo_loss;
pub use label::label_loss;
pub use patch::{
    PatchLossInput, PatchWeighting, StreamedPatchLossInput, patch_loss, streamed_patch_loss,
};
