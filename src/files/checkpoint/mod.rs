//! Checkpoints: everything that a run needs to resume, each in its own folder that is complete or absent.
//!
//! - `manifest`: one checkpoint on disk
//! - `store`: the checkpoints of a run; which is the newest good one, and which can be removed
//! - `saving`: writing in the background

mod manifest;
mod saving;
mod store;

pub use manifest::{Checkpoint, FORMAT, Manifest};
pub use saving::Saving;
pub use store::{Damaged, Keep, Store};
