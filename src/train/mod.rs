//! The training run: settings, schedules, one step, and the loop.

mod commented;
mod config;
pub mod health;
mod merging;
mod optim;
pub mod plan;
pub mod presets;
pub mod recommended;
mod run;
mod settings_diff;
mod toml_words;
mod trainer;
mod weights;

pub use config::RunConfig;
pub use health::OnAnomaly;
pub(crate) use optim::{GradientExchange, Overlap};
pub use optim::{
    Gradients, Optimizer, OptimizerConfig, OptimizerKind, Pace, Rates, Schedule, ScheduleConfig,
    UpdateRates, on_new_nodes,
};
pub use run::{
    Evaluation, EvaluationTime, ImageCounts, Interval, NoObserver, Observer, OnDeviceLost,
    PatchColors, RunOptions, RunRecord, RunRequest, RunStart, SettingChange, StartWeights,
    StepMetrics, ValidationImages, best_teacher, check_start, images_to_train_on, run,
};
pub(crate) use run::{RunLock, append, check_same_tensors, damage_in_words, read_with_damage};
pub(crate) use settings_diff::{Flat, differing, flatten};
pub use trainer::{PhaseTimes, StepInput, StepLosses, Tensors, Trainer, TrainerConfig};
pub(crate) use trainer::{misfit, named_loss_scale, prefixed, stored_loss_scale, subset};
pub use weights::{Export, ExportFormat, PretrainedParts, load_method};
