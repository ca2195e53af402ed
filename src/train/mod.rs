//! The training run: settings, schedules, one step, and the loop.

mod config;
pub mod health;
mod optim;
pub mod presets;
mod run;
mod trainer;
mod weights;

pub use config::RunConfig;
pub use health::OnSick;
pub use optim::{
    Gradients, Optimizer, OptimizerConfig, OptimizerKind, Pace, Rates, Schedule, ScheduleConfig,
    UpdateRates, on_new_nodes,
};
pub use run::{
    Change, Evaluation, Every, Observer, OnDeviceLost, RunFolder, RunRecord, RunRequest, RunStart,
    Silent, StepMetrics, TensorBoard, When, run,
};
pub use trainer::{PhaseTimes, StepInput, StepLosses, Tensors, Trainer};
pub use weights::{Export, ExportFormat, PretrainedParts, load_method};
