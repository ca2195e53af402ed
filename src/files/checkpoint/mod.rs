//! Checkpoints: all that a run needs to go on, each in a folder of its own that is whole or not there.
//!
//! - `manifest`: one checkpoint on disk
//! - `store`: the checkpoints of a run; which is the newest good one, and which may go
//! - `saving`: writing beside the training

mod manifest;
mod saving;
mod store;

pub use manifest::{Checkpoint, FORMAT, Manifest};
pub use saving::Saving;
pub use store::{Damaged, Keep, Store};
