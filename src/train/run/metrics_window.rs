//! The steps since metrics were last read: a read waits for the device, so not every step has one.

use std::time::{Duration, Instant};

use crate::device::DeviceGuard;
use crate::memory::resident_mib;
use crate::train::optim::Rates;
use crate::train::run::metrics::StepMetrics;
use crate::train::trainer::StepLosses;

/// Longest time between reads; if single steps take longer, a read after each costs nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A step whose losses have not been read.
struct MadeStep {
    step: usize,
    rates: Rates,
    data_wait_s: f64,
}

/// The steps since metrics were last read.
pub(super) struct MetricsWindow {
    steps: Vec<MadeStep>,
    /// Seconds that they took.
    seconds: f64,
    began: Instant,
}

impl MetricsWindow {
    /// No step made.
    pub fn new() -> Self {
        Self {
            steps: Vec::new(),
            seconds: 0.0,
            began: Instant::now(),
        }
    }

    /// Adds step number `step`.
    pub fn add(&mut self, step: usize, rates: Rates, data_wait_s: f64) {
        self.steps.push(MadeStep {
            step,
            rates,
            data_wait_s,
        });
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Adds time that the steps took.
    pub fn took(&mut self, time: Duration) {
        self.seconds += time.as_secs_f64();
    }

    /// Whether metrics should be read: `max_steps` steps, or a second, have passed since the last read.
    pub fn is_over(&self, max_steps: usize) -> bool {
        self.steps.len() >= max_steps || self.began.elapsed() >= PATIENCE
    }

    /// The metrics of the steps whose `losses` were read; starts a new window. A step's time is the mean, because the
    /// device still works on a step while the host is already at the next one.
    pub fn finish(
        &mut self,
        losses: &[StepLosses],
        batch_size: usize,
        guard: &DeviceGuard,
    ) -> Vec<StepMetrics> {
        let Self { steps, seconds, .. } = std::mem::replace(self, Self::new());
        let step_s = seconds / steps.len().max(1) as f64;
        let (resident_mib, gpu) = (resident_mib(), guard.gpu_memory());
        let read = steps.into_iter().zip(losses);
        read.map(|(made, losses)| StepMetrics {
            step: made.step,
            losses: *losses,
            rates: made.rates,
            health: None,
            anomalies: Vec::new(),
            step_s,
            data_wait_s: made.data_wait_s,
            images_per_s: batch_size as f64 / step_s,
            resident_mib,
            gpu_in_use_mib: gpu.map(|memory| memory.in_use_mib),
        })
        .collect()
    }
}
