//! The weights of a run: from other files at its start, to other files after it.

mod cards;
mod export;
mod head_settings;
mod method_weights;
mod pretrained;

pub(super) use cards::Origin;
pub use export::{Export, ExportFormat};
pub use pretrained::{PretrainedParts, check_pretrained, load_method};
