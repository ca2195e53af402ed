//! The steps since metrics were last read: a read waits for the device, so it is not made at every step.

use std::time::{Duration, Instant};

use crate::device::DeviceGuard;
use crate::memory::resident_mib;
use crate::train::optim::Rates;
use crate::train::run::metrics::StepMetrics;
use crate::train::trainer::StepLosses;

/// Nobody waits longer for metrics; where steps take longer than that, a read at each costs nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A step whose losses nobody has read.
struct MadeStep {
    step: usize,
    rates: Rates,
    data_wait_s: f64,
}

/// The steps since metrics were last read.
pub(super) struct Interval {
    steps: Vec<MadeStep>,
    /// Seconds that they took.
    seconds: f64,
    began: Instant,
}

impl Interval {
    /// No step made.
    pub fn new() -> Self {
        Self {
            steps: Vec::new(),
            seconds: 0.0,
            began: Instant::now(),
        }
    }

    /// Number `step` was made.
    pub fn add(&mut self, step: usize, rates: Rates, data_wait_s: f64) {
        self.steps.push(MadeStep {
            step,
            rates,
            data_wait_s,
        });
    }

    /// How many there are.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// So much time went into the steps.
    pub fn took(&mut self, time: Duration) {
        self.seconds += time.as_secs_f64();
    }

    /// Whether there are so many steps, or the last reading is long ago.
    pub fn is_over(&self, most_steps: usize) -> bool {
        self.steps.len() >= most_steps || self.began.elapsed() >= PATIENCE
    }

    /// The metrics of the steps that `losses` were read of, the first ones; begins anew. A step's time is the mean, as a
    /// device works on while the host is already at the next step.
    pub fn end(
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
            sick: Vec::new(),
            step_s,
            data_wait_s: made.data_wait_s,
            images_per_s: batch_size as f64 / step_s,
            resident_mib,
            gpu_in_use_mib: gpu.map(|memory| memory.in_use_mib),
        })
        .collect()
    }
}
