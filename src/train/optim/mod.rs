//! Gradients to weights: optimizers, groups of parameters, schedules.

mod config;
mod gradients;
mod host;
mod in_order;
mod layers;
mod momentum;
mod optimizer;
mod overlap;
mod reducer;
mod schedule;
mod update;

pub use config::{OptimizerConfig, OptimizerKind, UpdateRates};
pub use gradients::{Gradients, on_new_nodes};
pub(in crate::train) use host::{to_device, to_host};
pub use in_order::OrderedGradients;
pub use optimizer::Optimizer;
pub use overlap::{Overlap, ReducedGrads};
pub use reducer::GradientExchange;
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
