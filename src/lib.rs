//! iBOT pre-training of vision transformers (arXiv 2111.07832) on GPUs, through wgpu, or on the CPU.
//!
//! Crate map, in dependency order:
//!
//! - [`error`], [`random`]: what everything uses
//! - [`device`], [`memory`]: which device a run computes on, and how its faults become errors
//! - [`data`], [`masking`]: image folder -> views and masks
//! - [`kernels`]: operations with bodies of their own, as one backend-extension trait
//! - [`backbone`]: what is trained: any [`backbone::Backbone`], or timm's vision transformers
//! - [`method`]: iBOT: its parameters, heads, losses as pure functions, the moving average, and the forward pass
//! - [`files`]: weights, checkpoints and model files that say what they are
//! - [`embedding`]: features of pictures on any device
//! - [`eval`]: frozen features, and what they are worth: k-NN, linear probe, clusters, RankMe
//! - [`tensorboard`]: event files of training
//! - [`picture`]: charts, heat maps and contact sheets
//! - [`train`], [`mod@bench`]: the run, and how long a step takes
//! - [`finetune`]: a classifier from a backbone and labeled pictures
//! - [`app`]: a model or a run on a thread of its own, for applications
//! - [`verify`]: whether a device computes what the CPU computes
//!
//! Shape letters: B images, G global crops, L local crops, N patches, M masked patches, D width, H heads, K prototypes.
//!
//! Ten steps on random images, on the CPU:
//!
//! ```no_run
//! use ibot::burn::tensor::{Distribution, Tensor};
//! use ibot::method::IbotConfig;
//! use ibot::device::DeviceGuard;
//! use ibot::kernels::{Autodiff, Flex};
//! use ibot::train::{OptimizerConfig, Rates, StepInput, Trainer};
//!
//! type B = Autodiff<Flex>; // the CPU; Autodiff<ibot::kernels::Gpu> for a GPU
//!
//! fn main() -> ibot::Result<()> {
//!     let device = Default::default();
//!     let config = IbotConfig { n_cls_prototypes: 4096, ..IbotConfig::default() };
//!     let method = config.init::<B>(0, &device)?;
//!     let mut trainer = Trainer::new(method, OptimizerConfig::default(), device, DeviceGuard::Cpu);
//!     let view = || Tensor::<Flex, 4>::random([2, 3, 224, 224], Distribution::Default, &device);
//!     for step in 0..10 {
//!         let masks = (0..4).flat_map(|image| config.mask_policy().mask(0, step, image, 0, [14, 14]));
//!         let global_views = vec![view(), view()];
//!         let input = StepInput::<B> { masks: masks.collect(), global_views, local_views: vec![] };
//!         let (temperature_teacher, ema_decay) = (0.04, 0.996);
//!         let rates = Rates { learning_rate: 1e-4, temperature_teacher, ema_decay, ..Rates::default() };
//!         println!("{:?}", trainer.step(&input, &rates)?);
//!     }
//!     println!("{:?}", trainer.method.embed(view()).dims()); // [2, 384]
//!     Ok(())
//! }
//! ```

// They panic where nobody reads, and a library has no terminal.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod backbone;
pub mod bench;
pub mod data;
pub mod device;
pub mod embedding;
pub mod error;
pub mod eval;
pub mod files;
pub mod finetune;
mod init;
pub mod kernels;
pub mod masking;
pub mod memory;
pub mod method;
mod ownership;
pub mod path_text;
pub mod picture;
pub mod random;
pub mod tensorboard;
pub mod train;
pub mod unfinished;
pub mod verify;

pub use burn;
pub use error::{Error, Result};
