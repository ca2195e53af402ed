//! Times the parts of a training step, and the GPU's kernels against tensor operations.

mod kernels;
mod step;

pub use kernels::{KernelReport, KernelTimes, bench_kernels};
pub use step::{BenchRequest, StepTimes, bench_steps};
