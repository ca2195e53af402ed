//! iBOT pre-training of vision transformers (arXiv 2111.07832) on GPUs, through wgpu, or on the CPU.
//!
//! Crate map, in dependency order:
//!
//! - [`error`], [`random`], [`duration`]: what everything uses
//! - [`device`], [`memory`]: which device a run computes on, and how its faults become errors
//! - [`data`], [`masking`]: image folder -> views and masks
//! - [`kernels`]: operations with bodies of their own, as one backend-extension trait
//! - [`backbone`]: what is trained: any [`backbone::Backbone`], or timm's vision transformers
//! - [`method`]: iBOT: its parameters, heads, losses as pure functions, the moving average, and the forward pass
//! - [`files`]: weights, checkpoints and model files with metadata
//! - [`embedding`]: features of images on any device
//! - [`eval`]: quality of frozen features: k-NN, linear probe, clusters, RankMe
//! - [`train`]: one step, and the run
//! - [`finetune`]: a classifier from a backbone and labeled images
//! - [`app`]: a model or a run on its own thread, for applications
//!
//! Shape letters: B images; G global and L local views of each; S side of an image, s of a local view, P of a patch; N patches and
//! T tokens of an image; R rows, M chosen ones such as those of masked patches; D width, H heads, K prototypes or classes; I inputs
//! and O outputs of a layer. After 3 channels, H and W are height and width.
//!
//! Ten steps on random images, on the CPU:
//!
//! ```no_run
//! use ibot::burn::tensor::{Distribution, Tensor};
//! use ibot::method::IbotConfig;
//! use ibot::device::DeviceGuard;
//! use ibot::kernels::{Autodiff, Flex};
//! use ibot::train::{Rates, StepInput, TrainerConfig};
//!
//! type B = Autodiff<Flex>; // the CPU; Autodiff<ibot::kernels::Gpu> for a GPU
//!
//! fn main() -> ibot::Result<()> {
//!     let device = Default::default();
//!     let config = IbotConfig { n_cls_prototypes: 4096, ..IbotConfig::default() };
//!     let method = config.init::<B>(0, &device)?;
//!     let mut trainer = TrainerConfig::default().init(method, device, DeviceGuard::Cpu);
//!     let view = || Tensor::<Flex, 4>::random([2, 3, 224, 224], Distribution::Default, &device);
//!     for step in 0..10 {
//!         let batch = StepInput {
//!             global_views: vec![view(), view()],
//!             local_views: vec![],
//!             masks: config.mask_policy().of_batch(0, step, [2, 2], [14, 14]),
//!         };
//!         let rates = Rates { learning_rate: 1e-4, ..Rates::default() };
//!         println!("{:?}", trainer.step(&batch, &rates)?);
//!     }
//!     println!("{:?}", trainer.method.embed(view()).dims()); // [2, 384]
//!     Ok(())
//! }
//! ```

// They panic if the reader is gone, and a library has no terminal.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod backbone;
pub mod collective;
mod csv_text;
pub mod data;
pub mod device;
pub mod duration;
pub mod embedding;
pub mod error;
pub mod eval;
pub mod files;
pub mod finetune;
mod init;
pub mod kernels;
mod lock;
pub mod masking;
pub mod memory;
pub mod method;
mod ownership;
pub mod path_text;
pub mod precision;
pub mod random;
mod scope;
pub mod train;
pub mod unfinished;

pub use burn;
pub use error::{Error, Result};

/// The README's Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
