//! Gradients to weights: optimizers, groups of parameters, schedules.

mod config;
mod gradients;
mod host;
mod layers;
mod momentum;
mod optimizer;
mod ordered_gradients;
mod overlap;
mod parameter_update;
mod reducer;
mod schedule;

pub use config::{OptimizerConfig, OptimizerKind, UpdateRates};
pub use gradients::{Gradients, on_new_nodes};
pub(in crate::train) use host::{to_device, to_host};
pub use optimizer::Optimizer;
pub use ordered_gradients::OrderedGradients;
pub use overlap::{Overlap, ReducedGrads};
pub use reducer::GradientExchange;
pub use schedule::{Pace, Rates, Schedule, ScheduleConfig};
