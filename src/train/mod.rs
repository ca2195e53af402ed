//! The training run.

mod optimizer;

pub use optimizer::{AdamW, AdamWConfig, Gradients};
