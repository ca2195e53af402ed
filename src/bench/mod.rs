//! How long things take, and what they take.
//!
//! - `size`: how large a step is; `step`: the phases of a step, the one that trains; `traffic`: what it asks of a GPU
//! - `scaling`: steps of many sizes, with a line through each row of them
//! - `against`: steps, loader and losses beside the same in Python; `losses`: the losses, on any backend; `process`: the
//!   programs that are run for it; `jpegs`: pictures to load
//! - `kernels`: the GPU's kernels against tensor operations

mod against;
mod jpegs;
mod kernels;
mod losses;
mod process;
mod scaling;
mod size;
mod step;
mod traffic;

pub use against::{Against, Comparison, Peers, compare};
pub use kernels::{KernelReport, KernelTimes, bench_kernels};
pub use losses::{LossTimes, bench_losses};
pub use process::bench_in_process;
pub use scaling::{Row, ScalingReport, SizedStep, bench_scaling};
pub use size::StepSize;
pub use step::{BenchRequest, GpuCost, StepReport, StepTimes, bench_steps};
pub use traffic::{GpuTraffic, counted, observe_log};

/// The middle one of `values`, the upper of two; not a number where there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
