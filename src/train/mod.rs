//! The training run: settings, schedules, one step, and the loop.

mod cards;
mod config;
mod evaluation;
mod every;
mod folder;
mod gradients;
pub mod health;
mod layers;
mod lock;
mod momentum;
mod observer;
mod optimizer;
mod patches;
pub mod presets;
mod record;
mod run;
mod schedule;
mod state;
mod tensorboard;
mod trainer;
mod training;

pub use config::RunConfig;
pub use evaluation::{Evaluation, When};
pub use every::Every;
pub use folder::{RunFolder, StepMetrics};
pub use gradients::Gradients;
pub use health::OnSick;
pub use observer::{Observer, RunStart, Silent};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind, UpdateRates};
pub use record::{Change, RunRecord};
pub use run::{OnDeviceLost, RunRequest, run};
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
pub use state::Tensors;
pub use tensorboard::TensorBoard;
pub use trainer::{StepInput, StepLosses, Trainer};
