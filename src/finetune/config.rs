//! Settings of fine-tuning.

use serde::{Deserialize, Serialize};

use crate::data::views::augment::ColorJitter;
use crate::data::{AugmentConfig, check_workers};
use crate::error::{Result, require, require_counts};
use crate::files::model::Preprocessing;
use crate::precision::Precision;
use crate::train::{OptimizerConfig, ScheduleConfig};

/// What may help where a number is not finite.
pub(super) const LOWER_RATE: &str = "a lower `learning_rate` may help";

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
    /// Number format of matrix multiplications and activations, as `precision` of a run. Default "f32".
    pub precision: Precision,
    /// Seed of the head, the held-out part, order, views and drop path. Default 0.
    pub seed: u64,
    /// Passes over the images. Default 100. Source: BEiT's recipe.
    pub epochs: usize,
    /// Images per step. Default 32.
    pub batch_size: usize,
    /// Threads that decode and augment; 0 for one per core, growing to at most four per core while they mostly wait
    /// for files. Default 0.
    pub workers: usize,
    /// Peak learning rate at a batch of 256; it scales linearly with the batch size. Default 1e-3. Source: BEiT's
    /// recipe, 4e-3 at 1024.
    pub learning_rate: f64,
    /// Learning rate at the end of the cosine; it does not scale. Default 1e-6. Source: BEiT's recipe.
    pub final_learning_rate: f64,
    /// Fraction of the epochs in which the learning rate rises. Default 0.2. Source: BEiT's recipe, 20 of 100 epochs.
    pub warmup: f64,
    /// Factor of the learning rate from each block to the one before it; 1 for none. Default 0.75. Source: BEiT's
    /// recipe for ViT-S; 0.65 for ViT-B.
    pub layer_decay: f64,
    /// Decoupled weight decay of matrices. Default 0.05. Source: BEiT's recipe.
    pub weight_decay: f64,
    /// Probability to drop a residual branch of the last block; it grows linearly from 0 over the blocks. Default 0.1.
    /// Source: BEiT's recipe.
    pub drop_path: f64,
    /// Fraction of each target that is spread over all classes. Default 0.1. Source: BEiT's recipe.
    pub label_smoothing: f64,
    /// Smallest and largest fraction of the image's area that a crop covers. Default `[0.08, 1.0]`. Source:
    /// torchvision's `RandomResizedCrop`.
    pub scale: [f64; 2],
    /// Probability of a horizontal flip. Default 0.5. Source: torchvision.
    pub flip: f64,
    /// Whether only the linear layer is trained and the backbone stays as it is, without drop path. Default false.
    pub freeze: bool,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            precision: Precision::F32,
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
    /// [`crate::Error::Config`] that names the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        require_counts([
            ("epochs", self.epochs, 1 << 30),
            ("batch_size", self.batch_size, 1 << 20),
        ])?;
        check_workers(self.workers)?;
        for (key, value) in [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
        ] {
            let is_met = (0.0..=LARGEST).contains(&value);
            require(is_met, key, value, format!("must be from 0 to {LARGEST:e}"))?;
        }
        for (key, value) in [
            ("drop_path", self.drop_path),
            ("label_smoothing", self.label_smoothing),
        ] {
            let is_met = (0.0..1.0).contains(&value);
            require(is_met, key, value, "must be from 0 to below 1, such as 0.1")?;
        }
        let is_met = self.layer_decay > 0.0 && self.layer_decay <= 1.0;
        let remedy = "must be above 0 and at most 1 (no decay)";
        require(is_met, "layer_decay", self.layer_decay, remedy)?;
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

    /// One random crop of an image, perhaps flipped, as the model's input.
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
