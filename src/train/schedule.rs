//! What changes from step to step, as pure functions of the step.

use serde::{Deserialize, Serialize};

use crate::config::IbotConfig;
use crate::error::{Error, Result};

/// Batch size that [`ScheduleConfig::base_learning_rate`] is for.
const REFERENCE_BATCH: f64 = 256.0;

/// Learning rate: linear warm-up, then a cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Peak learning rate at a batch of 256; it scales linearly with the batch size.
    pub base_learning_rate: f64,
    /// Learning rate at the end, not scaled.
    pub final_learning_rate: f64,
    /// Epochs of warm-up from zero, at most half of the run.
    pub warmup_epochs: f64,
}

impl Default for ScheduleConfig {
    /// The paper's (arXiv 2111.07832, appendix): 5e-4, 1e-6, 10 epochs.
    fn default() -> Self {
        Self {
            base_learning_rate: 5e-4,
            final_learning_rate: 1e-6,
            warmup_epochs: 10.0,
        }
    }
}

impl ScheduleConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let entries = [
            ("schedule.base_learning_rate", self.base_learning_rate),
            ("schedule.final_learning_rate", self.final_learning_rate),
            ("schedule.warmup_epochs", self.warmup_epochs),
        ];
        for (key, value) in entries {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(key, value, "must be 0 or above"));
            }
        }
        Ok(())
    }
}

/// Length of a run, and where its schedules stand at each step.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Steps of the run.
    pub steps: usize,
    /// Steps of an epoch.
    pub steps_per_epoch: usize,
    peak: f64,
    config: ScheduleConfig,
}

/// The scalars of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Temperature of the teacher's targets.
    pub temperature_teacher: f64,
    /// Coefficient of the teacher's moving average.
    pub ema_decay: f64,
}

impl Schedule {
    /// `steps` steps, `steps_per_epoch` of them an epoch, with batches of `batch_size`.
    pub fn new(
        config: &ScheduleConfig,
        steps: usize,
        steps_per_epoch: usize,
        batch_size: usize,
    ) -> Self {
        Self {
            steps,
            steps_per_epoch: steps_per_epoch.max(1),
            peak: config.base_learning_rate * batch_size as f64 / REFERENCE_BATCH,
            config: config.clone(),
        }
    }

    /// Epochs of the run, the last one perhaps not whole.
    pub fn epochs(&self) -> usize {
        self.steps.div_ceil(self.steps_per_epoch)
    }

    /// Learning rate of a step, from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let warmup = self.config.warmup_epochs * self.steps_per_epoch as f64;
        let warmup = warmup.min(self.steps as f64 / 2.0);
        let step = step as f64;
        if step < warmup {
            return self.peak * (step + 1.0) / warmup.max(1.0);
        }
        let progress = (step - warmup) / (self.steps as f64 - warmup).max(1.0);
        let cosine = 0.5 * (1.0 + (progress.min(1.0) * std::f64::consts::PI).cos());
        let last = self.config.final_learning_rate.min(self.peak);
        last + (self.peak - last) * cosine
    }

    /// All scalars of a step, from 0.
    pub fn rates(&self, method: &IbotConfig, step: usize) -> Rates {
        let epoch = step / self.steps_per_epoch;
        Rates {
            epoch,
            learning_rate: self.learning_rate(step),
            temperature_teacher: method.teacher_temperature(epoch),
            ema_decay: method.ema_decay(epoch, self.epochs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_warms_up_and_falls() {
        let config = ScheduleConfig {
            base_learning_rate: 1e-3,
            final_learning_rate: 1e-6,
            warmup_epochs: 1.0,
        };
        let schedule = Schedule::new(&config, 100, 10, 128);
        let rates: Vec<f64> = (0..100).map(|step| schedule.learning_rate(step)).collect();
        assert!((rates[0] - 5e-5).abs() < 1e-12 && (rates[9] - 5e-4).abs() < 1e-12);
        assert!(rates[10..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(rates[99] < 2e-6 && rates[99] >= 1e-6);
    }
}
