//! iBOT pre-training of vision transformers (arXiv 2111.07832) on any GPU or the CPU.
//!
//! Crate map, in dependency order:
//!
//! - [`error`], [`random`]: what everything uses
//! - [`device`], [`memory`]: which device a run computes on, and how its faults become errors
//! - [`data`], [`masking`]: image folder -> views and masks
//! - [`kernels`]: operations with bodies of their own, as one backend-extension trait
//! - [`backbone`]: what is trained: any [`backbone::Backbone`], or timm's vision transformers
//! - [`head`], [`losses`]: projection heads, and losses as pure functions
//! - [`teacher`]: the moving average
//! - [`config`], [`ibot`]: the method's parameters, and the method
//!
//! - [`weights`]: by name, in and out
//! - [`eval`]: frozen features and k-NN
//! - [`train`], [`mod@bench`]: the run, and how long a step takes
//!
//! Shape letters: B images, G global crops, N patches, M masked patches, D width, H heads, K prototypes.

pub mod backbone;
pub mod bench;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod head;
pub mod ibot;
mod init;
pub mod kernels;
pub mod losses;
pub mod masking;
pub mod memory;
pub mod random;
pub mod teacher;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
