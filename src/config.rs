//! Parameters of the method, with the names and defaults of `stable_pretraining.methods.iBOT`.

use serde::{Deserialize, Serialize};

use crate::backbone::{VitConfig, vit_from_name};
use crate::error::{Error, Result};
use crate::masking::{MaskPolicy, MaskRatio};

/// How the teacher's class-token logits become targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClsTargets {
    /// Softmax of centered logits, with a center that follows the batch means (the reference).
    #[default]
    Centering,
    /// Sinkhorn-Knopp over the batch, as for patches (DINOv2).
    Sinkhorn,
}

/// Parameters of `stable_pretraining.methods.iBOT` 0.1.8 by name and default, and a few that it fixes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IbotConfig {
    /// timm name of the backbone; ignored where [`IbotConfig::vit`] describes one.
    pub encoder_name: String,
    /// Hidden width of both heads.
    pub projector_hidden_dim: usize,
    /// Width of the unit sphere before the prototypes.
    pub projector_bottleneck_dim: usize,
    /// Prototypes of the class-token head.
    pub n_cls_prototypes: usize,
    /// Prototypes of the patch head.
    pub n_patch_prototypes: usize,
    /// Share of the patches that the student does not see: a number, or `[low, high]` to draw from for every image.
    pub mask_ratio: MaskRatio,
    /// Weight of the patch loss; that of the class-token loss is 1.
    pub patch_loss_weight: f64,
    /// Temperature of the student's softmax.
    pub temperature_student: f64,
    /// Temperature of the teacher's targets in the first epoch.
    pub temperature_teacher_warmup: f64,
    /// Temperature of the teacher's targets after the warm-up.
    pub temperature_teacher: f64,
    /// Epochs of linear warm-up from one to the other.
    pub warmup_epochs_temperature_teacher: usize,
    /// Coefficient of the teacher's moving average in the first epoch.
    pub ema_decay_start: f64,
    /// Coefficient that the cosine schedule would reach after the last epoch.
    pub ema_decay_end: f64,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Whether to start from pretrained weights; the file is named by `--pretrained`.
    pub pretrained: bool,
    /// Probability that an image is masked at all.
    pub mask_probability: f64,
    /// How class-token targets are made.
    pub cls_targets: ClsTargets,
    /// Momentum of the class-token center.
    pub center_momentum: f64,
    /// Sinkhorn-Knopp iterations.
    pub sinkhorn_iterations: usize,
    /// A backbone of one's own shape instead of a name; its `img_size` is replaced by `image_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vit: Option<VitConfig>,
}

impl Default for IbotConfig {
    fn default() -> Self {
        Self {
            encoder_name: "vit_small_patch16_224".into(),
            projector_hidden_dim: 2048,
            projector_bottleneck_dim: 256,
            n_cls_prototypes: 65_536,
            n_patch_prototypes: 8_192,
            mask_ratio: MaskRatio::Fixed(0.3),
            patch_loss_weight: 1.0,
            temperature_student: 0.1,
            temperature_teacher_warmup: 0.04,
            temperature_teacher: 0.07,
            warmup_epochs_temperature_teacher: 30,
            ema_decay_start: 0.996,
            ema_decay_end: 1.0,
            image_size: 224,
            pretrained: false,
            mask_probability: 1.0,
            cls_targets: ClsTargets::Centering,
            center_momentum: 0.9,
            sinkhorn_iterations: 3,
            vit: None,
        }
    }
}

impl IbotConfig {
    /// The shape of the backbone: that of `vit`, or of the named model, at `image_size`.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown name or numbers that make no transformer.
    pub fn backbone(&self) -> Result<VitConfig> {
        let config = match &self.vit {
            Some(vit) => VitConfig {
                img_size: self.image_size,
                ..vit.clone()
            },
            None => vit_from_name(&self.encoder_name, self.image_size)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Whether the numbers can work; the backbone's own are checked by [`IbotConfig::backbone`].
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("projector_hidden_dim", self.projector_hidden_dim),
            ("projector_bottleneck_dim", self.projector_bottleneck_dim),
            ("n_cls_prototypes", self.n_cls_prototypes),
            ("n_patch_prototypes", self.n_patch_prototypes),
            ("sinkhorn_iterations", self.sinkhorn_iterations),
        ];
        for (key, value) in counts {
            if value == 0 {
                return Err(Error::config(key, value, "must be at least 1"));
            }
        }
        let temperatures = [
            ("temperature_student", self.temperature_student),
            (
                "temperature_teacher_warmup",
                self.temperature_teacher_warmup,
            ),
            ("temperature_teacher", self.temperature_teacher),
        ];
        for (key, value) in temperatures {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(key, value, "must be above 0, such as 0.1"));
            }
        }
        let fractions = [
            ("ema_decay_start", self.ema_decay_start),
            ("ema_decay_end", self.ema_decay_end),
            ("center_momentum", self.center_momentum),
        ];
        for (key, value) in fractions {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::config(key, value, "must be from 0 to 1"));
            }
        }
        self.mask_policy().validate()?;
        if !(self.patch_loss_weight.is_finite() && self.patch_loss_weight >= 0.0) {
            let remedy = "must be 0 or above";
            return Err(Error::config(
                "patch_loss_weight",
                self.patch_loss_weight,
                remedy,
            ));
        }
        Ok(())
    }

    /// How images are masked.
    pub fn mask_policy(&self) -> MaskPolicy {
        MaskPolicy {
            ratio: self.mask_ratio,
            probability: self.mask_probability,
        }
    }

    /// Temperature of the teacher's targets in an epoch (`_teacher_temperature` of the reference).
    pub fn teacher_temperature(&self, epoch: usize) -> f64 {
        let warmup = self.warmup_epochs_temperature_teacher;
        if epoch >= warmup {
            return self.temperature_teacher;
        }
        let progress = epoch as f64 / warmup as f64;
        self.temperature_teacher_warmup
            + progress * (self.temperature_teacher - self.temperature_teacher_warmup)
    }

    /// Coefficient of the teacher's moving average in an epoch, on a cosine from start to end
    /// (`update_ema_coefficient` of the reference).
    pub fn ema_decay(&self, epoch: usize, total_epochs: usize) -> f64 {
        let progress = epoch as f64 / total_epochs.max(1) as f64;
        let cosine = 1.0 + (progress * std::f64::consts::PI).cos();
        self.ema_decay_end - 0.5 * (self.ema_decay_end - self.ema_decay_start) * cosine
    }
}
