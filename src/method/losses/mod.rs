//! Losses, as pure functions of their inputs, and the center, which moves only in [`Center::update`].

mod center;
mod cls;
mod koleo;
mod label;
mod parts;
mod patch;
mod targets;

pub use center::Center;
pub use cls::{ClsLossInput, cls_loss};
pub use koleo::koleo_loss;
pub use label::label_loss;
pub(super) use parts::{PartsContext, targets_of_parts};
pub use patch::{PatchLossInput, PatchWeighting, patch_loss};
pub(crate) use targets::tiled_targets;
pub use targets::{TargetRule, TeacherTargets};
