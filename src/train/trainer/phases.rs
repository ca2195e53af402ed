//! Times of the phases of a step.

use std::time::Instant;

use crate::error::{Error, Result};

/// Seconds of the phases of a step, with a wait for the device after each.
#[derive(Debug, Clone, Copy, Default)]
pub struct PhaseTimes {
    /// The teacher's targets, the student's forward and the losses.
    pub forward_s: f64,
    /// Gradients.
    pub backward_s: f64,
    /// Their sums over the ranks; about 0 with one.
    pub exchange_s: f64,
    /// Gradient norm and optimizer.
    pub optimizer_s: f64,
    /// Centers and the teacher's moving average.
    pub ema_s: f64,
}

/// A phase of a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Forward,
    Backward,
    Exchange,
    Optimizer,
    Ema,
}

/// Measures a step; a batch in parts passes forward and backward more than once.
#[derive(Debug)]
pub(super) struct PhaseClock {
    last: Instant,
    times: PhaseTimes,
    failed: Option<Error>,
}

impl PhaseClock {
    /// Starts.
    pub fn start() -> Self {
        Self {
            last: Instant::now(),
            times: PhaseTimes::default(),
            failed: None,
        }
    }

    /// Waits for the device and ends a phase.
    pub fn passed(&mut self, phase: Phase, waited: Result<()>) {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        let sum = match phase {
            Phase::Forward => &mut self.times.forward_s,
            Phase::Backward => &mut self.times.backward_s,
            Phase::Exchange => &mut self.times.exchange_s,
            Phase::Optimizer => &mut self.times.optimizer_s,
            Phase::Ema => &mut self.times.ema_s,
        };
        *sum += seconds; // forward and backward run once per part of a batch
        // only the first error is kept: later ones follow from it
        if let (None, Err(error)) = (&self.failed, waited) {
            self.failed = Some(error);
        }
    }

    /// The measured times.
    ///
    /// # Errors
    /// The first error of the device.
    pub fn times(self) -> Result<PhaseTimes> {
        self.failed.map_or(Ok(self.times), Err)
    }
}
