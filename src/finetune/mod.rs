//! Fine-tuning: a classifier from a backbone and labeled images.
//!
//! - `config`: the settings, and where their defaults come from
//! - `images`: what is trained on, and what is held out
//! - `classifier`: backbone and head; `trainer`: one step; `score`: accuracy
//! - `record`: what makes two runs the same; `resuming`: where an interrupted run resumes; `together`: what the ranks of a
//!   run do together
//! - `run`: a model file and a folder in, two classifiers out; `epochs`: its loop; `folder`: where they go; `observer`: what
//!   its events

mod classifier;
mod config;
mod epochs;
mod folder;
mod labeled;
mod observer;
mod record;
mod resuming;
mod run;
mod score;
mod setup;
mod together;
mod trainer;

pub use classifier::Classifier;
pub use config::FinetuneConfig;
pub use labeled::HeldOut;
pub use observer::{EpochMetrics, Exported, FinetuneObserver, FinetuneReport, FinetuneStart};
pub use run::finetune;
pub use setup::FinetuneRequest;
pub use trainer::{ClassifierStep, ClassifierTrainer};
