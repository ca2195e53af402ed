//! The method: its parameters, networks, losses, and a forward pass that reads like Algorithm 1 of the paper.
//!
//! - [`config`](IbotConfig), `head`, `ibot`: parameters, projection heads, and student with teacher
//! - `forward`, `targets`: the losses of a batch; the teacher's side of it
//! - [`losses`]: pure functions
//! - `teacher`: the moving average
//! - `terms`, `rows`, `tiling`: what goes in and out, which rows a loss looks at, whether its logits are stored
//! - `counts`, `tensor_collectives`: what the ranks of a run tell each other about a batch
//! - `health_stats`: statistics for the health check

mod config;
mod counts;
mod forward;
mod head;
mod health_stats;
mod ibot;
pub mod losses;
mod rows;
mod targets;
mod teacher;
mod tensor_collectives;
mod terms;
mod tiling;

pub use config::{IbotConfig, PatchWeight, SMALLEST_TEMPERATURE, StreamingPrototypes, TargetKind};
pub use head::{Head, HeadConfig, PrototypeNorm};
pub use health_stats::{HealthStats, TargetStats};
pub use ibot::{Ibot, Network, Student, VitIbot};
pub use targets::BatchTargets;
pub use terms::{IbotInput, IbotOutput, LossTerms};
pub(crate) use tiling::LogitLimits;
