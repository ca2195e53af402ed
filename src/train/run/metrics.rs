//! The metrics of a step: a line of metrics.jsonl.

use serde::Serialize;

use crate::train::health::{Anomaly, Health};
use crate::train::optim::Rates;
use crate::train::trainer::StepLosses;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize)]
pub struct StepMetrics {
    /// Steps made, this one included.
    pub step: usize,
    /// Losses and gradient norm.
    #[serde(flatten)]
    pub losses: StepLosses,
    /// The step's scalars.
    #[serde(flatten)]
    pub rates: Rates,
    /// Health metrics of the batch; at some steps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Problems of the run; "sick" in files of the first versions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// Seconds of the step, waiting for data included.
    pub step_s: f64,
    /// Seconds of it spent waiting for data.
    pub data_wait_s: f64,
    /// Images per second.
    pub images_per_s: f64,
    /// Resident memory of the process, MiB; none if the system does not report it.
    pub resident_mib: Option<f64>,
    /// Memory of live tensors on the GPU, MiB; none on the CPU.
    pub gpu_in_use_mib: Option<f64>,
}
