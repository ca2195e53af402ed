//! For applications: a model and a training run, each on its own thread, controlled and observed from any other.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ibot::app::{EmbedRequest, EmbedderConfig};
//!
//! fn main() -> ibot::Result<()> {
//!     let embedder = EmbedderConfig::new("teacher.safetensors").start()?;
//!     let images = ["cat.png", "dog.png"].map(std::path::Path::new);
//!     let request = EmbedRequest::new(images).within(Duration::from_secs(10));
//!     let mut job = embedder.embed(request); // or `.await` it, or look at `try_result` in each frame
//!     for features in job.wait()? {
//!         println!("{} numbers", features?.cls.len());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - `handle`: [`EmbedderHandle`]; `request`: its requests; `job`: what it returns at once
//! - `worker`: the thread behind it; `queue`: what waits for that thread; `batch`: images on their way to the model
//! - `training`: [`TrainingHandle`]; `events`: its events
//!
//! Nothing here panics or blocks unless its documentation says so. `docs/embedding.md` describes the whole.

mod batch;
mod config;
mod events;
mod handle;
mod job;
mod queue;
mod request;
mod training;
mod worker;

pub use config::{DeviceRequest, EmbedderConfig, ModelInfo};
pub use events::TrainingEvent;
pub use handle::{EmbedderHandle, MemoryReport};

pub use job::{Job, Progress, catch_panic};
pub use request::{EmbedRequest, ImageFeatures, ImageInput};
pub use training::{TrainingConfig, TrainingHandle};
