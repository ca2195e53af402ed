//! The training run: settings, schedules, one step, and the loop.

mod config;
mod metrics;
mod observer;
mod optimizer;
pub mod presets;
mod run;
mod schedule;
mod trainer;

pub use config::RunConfig;
pub use metrics::{Backbones, RunFolder, StepMetrics};
pub use observer::{Observer, RunStart, Silent};
pub use optimizer::{AdamW, AdamWConfig, Gradients, UpdateRates};
pub use run::{RunRequest, run};
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
pub use trainer::{StepInput, StepLosses, Trainer};
