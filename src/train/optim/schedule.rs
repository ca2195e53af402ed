//! Schedules, as pure functions of the step.

use serde::{Deserialize, Serialize};

use crate::error::{Result, require};
use crate::method::IbotConfig;
use crate::train::optim::config::UpdateRates;

/// Batch size that [`ScheduleConfig::base_learning_rate`] is for.
const REFERENCE_BATCH: f64 = 256.0;

/// Bound of the numbers, so that their products stay finite.
const LARGEST: f64 = 1e100;

/// Learning rate: linear warm-up, then a cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Peak learning rate at a batch of 256; it scales linearly with the batch size. Default 5e-4. Source: the paper.
    pub base_learning_rate: f64,
    /// Learning rate at the end of the cosine; it does not scale. Default 1e-6. Source: the paper.
    pub final_learning_rate: f64,
    /// Epochs of linear warm-up from 0, at most half of the run. Default 10.0. Source: the paper.
    pub warmup_epochs: f64,
    /// Weight decay at the end of a cosine that starts at the optimizer's; constant if not set. Default none. Source:
    /// `weight_decay_end` of the official code, 0.4 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_weight_decay: Option<f64>,
    /// Epochs in which the prototypes of the heads are not trained. Default 0.0. Source: `freeze_last_layer` of the
    /// official code, 1 there.
    pub freeze_prototypes_epochs: f64,
    /// Epochs in which only the heads are trained: neither gradients nor the teacher's average move the backbones, nor
    /// gradients the mask token. At most half of the run. For weights that were trained before, so that heads drawn at
    /// random do not spoil them. Default 0.0.
    pub freeze_backbone_epochs: f64,
    /// When the teacher's EMA coefficient changes: each "epoch" or each "step". Default `"epoch"`. Source: the
    /// reference. The paper changes it at each step.
    pub ema_pace: Pace,
    /// When the teacher's temperatures change: each "epoch" or each "step". Default `"epoch"`. Source: the reference
    /// and the official code.
    pub temperature_pace: Pace,
}

/// When a scalar of the teacher changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Once an epoch (stable-pretraining).
    #[default]
    Epoch,
    /// At each step.
    Step,
}

impl Default for ScheduleConfig {
    /// The paper's (arXiv 2111.07832, appendix): 5e-4, 1e-6, 10 epochs.
    fn default() -> Self {
        Self {
            base_learning_rate: 5e-4,
            final_learning_rate: 1e-6,
            warmup_epochs: 10.0,
            final_weight_decay: None,
            freeze_prototypes_epochs: 0.0,
            freeze_backbone_epochs: 0.0,
            ema_pace: Pace::Epoch,
            temperature_pace: Pace::Epoch,
        }
    }
}

impl ScheduleConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`crate::Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let entries = [
            ("schedule.base_learning_rate", self.base_learning_rate),
            ("schedule.final_learning_rate", self.final_learning_rate),
            ("schedule.warmup_epochs", self.warmup_epochs),
            (
                "schedule.final_weight_decay",
                self.final_weight_decay.unwrap_or(0.0),
            ),
            (
                "schedule.freeze_prototypes_epochs",
                self.freeze_prototypes_epochs,
            ),
            (
                "schedule.freeze_backbone_epochs",
                self.freeze_backbone_epochs,
            ),
        ];
        for (key, value) in entries {
            let is_met = (0.0..=LARGEST).contains(&value);
            require(is_met, key, value, format!("must be from 0 to {LARGEST:e}"))?;
        }
        Ok(())
    }
}

/// Length of a run, and the values of its schedules at each step.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Steps of the run.
    pub steps: usize,
    /// Steps of an epoch.
    pub steps_per_epoch: usize,
    peak: f64,
    config: ScheduleConfig,
}

/// The scalars of one step. By default the method's own of the first step, and a learning rate of 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay; the optimizer's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Temperature of the teacher's targets. Default 0.04.
    pub temperature_teacher: f64,
    /// Temperature of the teacher's patch targets, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_teacher_patch: Option<f64>,
    /// Coefficient of the teacher's moving average. Default 0.996.
    pub ema_decay: f64,
    /// Whether the heads' prototypes are frozen.
    #[serde(skip)]
    pub freeze_prototypes: bool,
    /// Whether the backbones are frozen.
    #[serde(skip)]
    pub freeze_backbone: bool,
    /// Steps before this one in which the backbones were.
    #[serde(skip)]
    pub frozen_backbone_steps: usize,
    /// Steps before this one in which the prototypes were.
    #[serde(skip)]
    pub frozen_prototype_steps: usize,
}

impl Default for Rates {
    fn default() -> Self {
        let method = IbotConfig::default();
        Self {
            epoch: 0,
            learning_rate: 0.0,
            weight_decay: None,
            temperature_teacher: method.teacher_temperature(0.0),
            temperature_teacher_patch: None,
            ema_decay: method.ema_decay(0.0),
            freeze_prototypes: false,
            freeze_backbone: false,
            frozen_backbone_steps: 0,
            frozen_prototype_steps: 0,
        }
    }
}

impl Rates {
    /// What the optimizer needs of them.
    pub fn of_optimizer(&self) -> UpdateRates {
        UpdateRates {
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            freeze_prototypes: self.freeze_prototypes,
            freeze_backbone: self.freeze_backbone,
            frozen_backbone_steps: self.frozen_backbone_steps,
            frozen_prototype_steps: self.frozen_prototype_steps,
        }
    }
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
            steps_per_epoch: steps_per_epoch.max(1), // divided by below
            peak: config.base_learning_rate * batch_size as f64 / REFERENCE_BATCH,
            config: config.clone(),
        }
    }

    /// Epochs of the run; the last one may be incomplete.
    pub fn epochs(&self) -> usize {
        self.steps.div_ceil(self.steps_per_epoch)
    }

    /// Steps in which the learning rate rises.
    pub fn warmup_steps(&self) -> usize {
        self.warmup().ceil() as usize
    }

    fn warmup(&self) -> f64 {
        let warmup = self.config.warmup_epochs * self.steps_per_epoch as f64;
        // a run shorter than the warm-up must still reach its peak and decay
        warmup.min(self.steps as f64 / 2.0)
    }

    /// Steps, from the first one on, in which the backbones are frozen.
    pub fn frozen_backbone_steps(&self) -> usize {
        let frozen = self.config.freeze_backbone_epochs * self.steps_per_epoch as f64;
        // a run that is shorter must still train the backbone
        (frozen.ceil() as usize).min(self.steps / 2)
    }

    /// Learning rate of a step, from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let warmup = self.warmup();
        let step = step as f64;
        if step < warmup {
            if step + 1.0 > warmup {
                // the last step of a warm-up that is no whole number of steps
                return self.peak;
            }
            // + 1, or the first step would have a rate of 0
            return self.peak * (step + 1.0) / warmup.max(1.0);
        }
        let progress = (step - warmup) / (self.steps as f64 - warmup).max(1.0);
        let cosine = 0.5 * (1.0 + (progress.min(1.0) * std::f64::consts::PI).cos());
        // a peak below the final rate (a small batch) must not rise along the cosine
        let last = self.config.final_learning_rate.min(self.peak);
        last + (self.peak - last) * cosine
    }

    /// Weight decay of a step on its cosine, from `first`; none if it is constant.
    fn weight_decay(&self, first: f64, step: usize) -> Option<f64> {
        let last = self.config.final_weight_decay?;
        let progress = step as f64 / self.steps.max(1) as f64;
        let cosine = 0.5 * (1.0 + (progress * std::f64::consts::PI).cos());
        Some(last + (first - last) * cosine)
    }

    /// All scalars of a step, from 0; `weight_decay` is the initial one.
    pub fn rates(&self, method: &IbotConfig, weight_decay: f64, step: usize) -> Rates {
        let epoch = step / self.steps_per_epoch;
        // by epoch as in the reference, or by step as in the paper; between epochs, the values are constant
        let progress = match self.config.ema_pace {
            Pace::Epoch => epoch as f64 / self.epochs().max(1) as f64,
            Pace::Step => step as f64 / self.steps.max(1) as f64,
        };
        let epochs_made = match self.config.temperature_pace {
            Pace::Epoch => epoch as f64,
            Pace::Step => step as f64 / self.steps_per_epoch as f64,
        };
        let temperature_teacher = method.teacher_temperature(epochs_made);
        let of_patches = method.teacher_patch_temperature(epochs_made);
        let frozen_prototypes = self.config.freeze_prototypes_epochs * self.steps_per_epoch as f64;
        let frozen_prototypes = frozen_prototypes.ceil() as usize;
        Rates {
            epoch,
            learning_rate: self.learning_rate(step),
            weight_decay: self.weight_decay(weight_decay, step),
            temperature_teacher,
            temperature_teacher_patch: (of_patches != temperature_teacher).then_some(of_patches),
            ema_decay: method.ema_decay(progress),
            freeze_prototypes: step < frozen_prototypes,
            freeze_backbone: step < self.frozen_backbone_steps(),
            frozen_backbone_steps: step.min(self.frozen_backbone_steps()),
            frozen_prototype_steps: step.min(frozen_prototypes),
        }
    }
}

#[cfg(test)]
mod tests;
