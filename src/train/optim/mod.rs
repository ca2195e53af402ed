//! Gradients to weights: optimizers, groups of parameters, schedules.

mod gradients;
mod host;
mod layers;
mod momentum;
mod optimizer;
mod schedule;
mod update;

pub use gradients::{Gradients, on_new_nodes};
pub(in crate::train) use host::{to_device, to_host};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind, UpdateRates};
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
