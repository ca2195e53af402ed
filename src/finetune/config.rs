//! Settings of fine-tuning.

use serde::{Deserialize, Serialize};

use crate::data::AugmentConfig;
use crate::data::augment::ColorJitter;
use crate::error::{Error, Result};
use crate::files::model::Preprocessing;
use crate::train::{OptimizerConfig, ScheduleConfig};

/// What may help where a number is not finite.
pub(super) const LOWER_RATE: &str = "a lower --learning-rate may help";

/// Bound of the numbers, so that their products stay finite.
const LARGEST: f64 = 1e100;

/// What decides how a classifier is trained.
///
/// Source of the defaults: BEiT's recipe as `evaluation/classification_layer_decay` and `run.sh` of bytedance/ibot have it
/// for 100 epochs on ImageNet: AdamW, 4e-3 at a batch of 1024, a fifth of the epochs to warm up, 0.75 from block to block
/// (theirs for ViT-S and ViT-L, 0.65 for ViT-B), random resized crops and flips.
///
/// Differs from the official code: no mixup and CutMix, no RandAugment, no random erasing; the last batch of an epoch is not
/// dropped but smaller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Seed of the head, the held-out part, order, views and drop path.
    pub seed: u64,
    /// Passes over the pictures; default 100.
    pub epochs: usize,
    /// Pictures a step; default 32.
    pub batch_size: usize,
    /// Threads that decode and augment; 0 for one a core.
    pub workers: usize,
    /// Peak learning rate at a batch of 256, with which it scales; default 1e-3.
    pub learning_rate: f64,
    /// Learning rate at the end of the cosine, not scaled; default 1e-6.
    pub final_learning_rate: f64,
    /// Share of the epochs in which the learning rate rises; default 0.2.
    pub warmup: f64,
    /// Factor of the learning rate from each block to the one before it; default 0.75.
    pub layer_decay: f64,
    /// Decoupled weight decay of matrices; default 0.05.
    pub weight_decay: f64,
    /// Largest probability to drop a residual branch; it grows linearly over the blocks. Default 0.1.
    pub drop_path: f64,
    /// Share of each target that goes to all classes alike; default 0.1.
    pub label_smoothing: f64,
    /// Share of the picture's area that a crop covers; default 0.08 to 1.
    pub scale: [f64; 2],
    /// Probability of a horizontal flip; default 0.5.
    pub flip: f64,
    /// Whether the backbone stays as it is, and the linear layer alone is trained; there is no drop path then.
    pub freeze: bool,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 100,
            batch_size: 32,
            workers: 0,
            learning_rate: 1e-3,
            final_learning_rate: 1e-6,
            warmup: 0.2,
            layer_decay: 0.75,
            weight_decay: 0.05,
            drop_path: 0.1,
            label_smoothing: 0.1,
            scale: [0.08, 1.0],
            flip: 0.5,
            freeze: false,
        }
    }
}

impl FinetuneConfig {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`Error::Config`] that names the flag, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        for (flag, value, most) in [
            ("--epochs", self.epochs, 1 << 30),
            ("--batch-size", self.batch_size, 1 << 20),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::config(
                    flag,
                    value,
                    format!("must be from 1 to {most}"),
                ));
            }
        }
        for (flag, value) in [
            ("--learning-rate", self.learning_rate),
            ("--weight-decay", self.weight_decay),
        ] {
            if !(0.0..=LARGEST).contains(&value) {
                let remedy = format!("must be from 0 to {LARGEST:e}");
                return Err(Error::config(flag, value, remedy));
            }
        }
        for (flag, value) in [
            ("--drop-path", self.drop_path),
            ("--label-smoothing", self.label_smoothing),
        ] {
            if !(0.0..1.0).contains(&value) {
                let remedy = "must be from 0 to below 1, such as 0.1";
                return Err(Error::config(flag, value, remedy));
            }
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            let remedy = "must be above 0 and at most 1, which is none";
            return Err(Error::config("--layer-decay", self.layer_decay, remedy));
        }
        self.schedule().validate()
    }

    /// Largest probability to drop a residual branch, which a frozen backbone does not.
    pub fn drop_path(&self) -> f64 {
        if self.freeze { 0.0 } else { self.drop_path }
    }

    /// The optimizer's settings.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            weight_decay: self.weight_decay,
            layer_decay: self.layer_decay,
            ..OptimizerConfig::default()
        }
    }

    /// The learning rate's.
    pub fn schedule(&self) -> ScheduleConfig {
        ScheduleConfig {
            base_learning_rate: self.learning_rate,
            final_learning_rate: self.final_learning_rate,
            warmup_epochs: self.warmup * self.epochs as f64,
            ..ScheduleConfig::default()
        }
    }

    /// One random crop of a picture, perhaps flipped, as the model's input.
    pub fn augment(&self, preprocessing: &Preprocessing) -> AugmentConfig {
        let mut augment = AugmentConfig {
            global_views: 1,
            scale: self.scale,
            flip: self.flip,
            color_jitter: ColorJitter {
                probability: 0.0,
                ..ColorJitter::default()
            },
            gray: 0.0,
            ..preprocessing.augment()
        };
        augment.blur.probability = 0.0.into();
        augment.solarize.probability = 0.0.into();
        augment
    }
}
