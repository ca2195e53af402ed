//! The training run: settings, schedules, one step, and the loop.

mod config;
mod gradients;
mod layers;
mod metrics;
mod momentum;
mod observer;
mod optimizer;
pub mod presets;
mod run;
mod schedule;
mod trainer;

pub use config::RunConfig;
pub use gradients::Gradients;
pub use metrics::{Backbones, RunFolder, StepMetrics};
pub use observer::{Observer, RunStart, Silent};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind, UpdateRates};
pub use run::{RunRequest, run};
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
pub use trainer::{StepInput, StepLosses, Trainer};
