//! Losses, as pure functions of their inputs, and the center, which moves only in [`Center::update`].

mod center;
mod cls;
mod koleo;
mod label;
mod patch;
mod targets_of_parts;
mod teacher_targets;

pub use center::Center;
pub use cls::{ClsLossInput, cls_loss};
pub use koleo::koleo_loss;
pub use label::label_loss;
pub use patch::{PatchLossInput, PatchWeighting, patch_loss};
pub(super) use targets_of_parts::{PartsContext, targets_of_parts};
pub(crate) use teacher_targets::tiled_targets;
pub use teacher_targets::{TargetRule, TeacherTargets};
