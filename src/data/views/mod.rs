//! Random views of an image, and the fixed one to evaluate on.
//!
//! - [`augment`]: the settings; [`crop`], [`photometric`]: the operations; [`view`]: one random view
//! - `eval_fit`: what part of an image the evaluation view shows
//! - [`pixels`]: what batches hold, bytes or floats

pub mod augment;
pub mod crop;
pub(in crate::data) mod eval_fit;
pub mod photometric;
pub mod pixels;
pub mod view;
