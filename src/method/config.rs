//! Parameters of the method, with the names and defaults of `stable_pretraining.methods.iBOT`.

use serde::{Deserialize, Serialize};

use crate::backbone::{VitConfig, encoder_tags, split_tag, vit_from_name};
use crate::error::{Error, Result};
use crate::masking::{MaskPolicy, MaskRatio, MaskShape};
use crate::method::head::PrototypeNorm;

/// Entries of a row that a workgroup of 256 lanes reduces on any device, rounded down.
const MOST_PROTOTYPES: usize = 16_000_000;

/// Smallest temperature: where the GPU's running maxima start (LOWEST in chunk.wgsl), divided by it, is still an f32.
pub const SMALLEST_TEMPERATURE: f64 = 1e-8;

/// How the teacher's logits become targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Targets {
    /// Softmax of centered logits, with a center that follows the batch means (DINO, the paper).
    Centering,
    /// Sinkhorn-Knopp over the batch (DINOv2).
    Sinkhorn,
}

/// What counts the same in the patch loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchWeight {
    /// All masked patches of the batch (the reference).
    #[default]
    Patch,
    /// All images, whatever the number of their masked patches (the paper).
    Image,
}

/// Whether logits are made tile by tile, whenever something looks at them, and never stored as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamingPrototypes {
    /// Where the logits of a loss would be large, or larger than one tensor of the device.
    #[default]
    Auto,
    /// All logits.
    Always,
    /// None: an error where one tensor cannot hold them.
    Never,
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
    /// Weight of the patch loss.
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
    /// Whether masked patches lie anywhere or in blocks.
    pub mask_shape: MaskShape,
    /// Fewest patches of a block.
    pub mask_block_min: usize,
    /// Height by width of a block, from and to.
    pub mask_block_aspect: [f64; 2],
    /// Epoch from which on images are masked.
    pub mask_start_epoch: usize,
    /// Linear layers of the heads before the prototypes.
    pub projector_layers: usize,
    /// What is done with the length of the prototypes.
    pub prototype_norm: PrototypeNorm,
    /// Whether patches share the class tokens' head, and its `n_cls_prototypes`.
    pub shared_head: bool,
    /// Whether the teacher's patches share its class tokens' head, where the student's may have one of their own (the
    /// paper's `shared_head_teacher`); as `shared_head` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_head_teacher: Option<bool>,
    /// How class-token targets are made.
    pub cls_targets: Targets,
    /// How patch targets are made.
    pub patch_targets: Targets,
    /// Momentum of the class-token center.
    pub center_momentum: f64,
    /// Momentum of the patch center.
    pub patch_center_momentum: f64,
    /// Temperature of the teacher's patch targets in the first epoch; that of class tokens where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_teacher_patch_warmup: Option<f64>,
    /// Temperature of the teacher's patch targets after the warm-up; that of class tokens where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_teacher_patch: Option<f64>,
    /// Weight of the class-token loss.
    pub cls_loss_weight: f64,
    /// What counts the same in the patch loss.
    pub patch_weight: PatchWeight,
    /// Weight of the same loss on visible patches, whose targets are made apart; 0 leaves it out.
    pub visible_loss_weight: f64,
    /// Weight of the KoLeo regularizer on the student's class tokens; 0 leaves it out.
    pub koleo_weight: f64,
    /// Largest probability to drop a residual branch of the student; it grows linearly from 0 over the blocks.
    pub drop_path_rate: f64,
    /// Whether the student's blocks keep their inputs alone and run a second time in the backward pass: less memory for
    /// more time, the same gradients.
    pub grad_checkpointing: bool,
    /// Sinkhorn-Knopp iterations.
    pub sinkhorn_iterations: usize,
    /// Whether logits are streamed: less memory, more matrix products, the same numbers but for rounding.
    pub streaming_prototypes: StreamingPrototypes,
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
            mask_shape: MaskShape::Random,
            mask_block_min: MaskPolicy::default().block_min,
            mask_block_aspect: MaskPolicy::default().block_aspect,
            mask_start_epoch: 0,
            projector_layers: 3,
            prototype_norm: PrototypeNorm::None,
            shared_head: false,
            shared_head_teacher: None,
            cls_targets: Targets::Centering,
            patch_targets: Targets::Sinkhorn,
            center_momentum: 0.9,
            patch_center_momentum: 0.9,
            temperature_teacher_patch_warmup: None,
            temperature_teacher_patch: None,
            cls_loss_weight: 1.0,
            patch_weight: PatchWeight::Patch,
            visible_loss_weight: 0.0,
            koleo_weight: 0.0,
            drop_path_rate: 0.0,
            grad_checkpointing: false,
            sinkhorn_iterations: 3,
            streaming_prototypes: StreamingPrototypes::Auto,
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
        let shape = match &self.vit {
            Some(vit) => vit.clone(),
            None => vit_from_name(&self.encoder_name, self.image_size).map_err(or_a_table)?,
        };
        let config = VitConfig {
            img_size: self.image_size,
            drop_path_rate: self.drop_path_rate,
            grad_checkpointing: self.grad_checkpointing,
            ..shape
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
            ("projector_hidden_dim", self.projector_hidden_dim, 1 << 18),
            (
                "projector_bottleneck_dim",
                self.projector_bottleneck_dim,
                1 << 18,
            ),
            ("n_cls_prototypes", self.n_cls_prototypes, MOST_PROTOTYPES),
            (
                "n_patch_prototypes",
                self.n_patch_prototypes,
                MOST_PROTOTYPES,
            ),
            ("sinkhorn_iterations", self.sinkhorn_iterations, 1 << 10),
            ("projector_layers", self.projector_layers, 1 << 10),
        ];
        for (key, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(Error::config(
                    key,
                    value,
                    format!("must be from 1 to {most}"),
                ));
            }
        }
        let temperatures = [
            ("temperature_student", self.temperature_student),
            (
                "temperature_teacher_warmup",
                self.temperature_teacher_warmup,
            ),
            ("temperature_teacher", self.temperature_teacher),
            (
                "temperature_teacher_patch_warmup",
                self.patch_temperatures()[0],
            ),
            ("temperature_teacher_patch", self.patch_temperatures()[1]),
        ];
        for (key, value) in temperatures {
            if !(value.is_finite() && value >= SMALLEST_TEMPERATURE) {
                let remedy = format!("must be at least {SMALLEST_TEMPERATURE:e}, such as 0.1");
                return Err(Error::config(key, value, remedy));
            }
        }
        let fractions = [
            ("ema_decay_start", self.ema_decay_start),
            ("ema_decay_end", self.ema_decay_end),
            ("center_momentum", self.center_momentum),
            ("patch_center_momentum", self.patch_center_momentum),
        ];
        for (key, value) in fractions {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::config(key, value, "must be from 0 to 1"));
            }
        }
        self.validate_teachers_head()?;
        self.mask_policy().validate()?;
        let weights = [
            ("cls_loss_weight", self.cls_loss_weight),
            ("patch_loss_weight", self.patch_loss_weight),
            ("visible_loss_weight", self.visible_loss_weight),
            ("koleo_weight", self.koleo_weight),
        ];
        for (key, value) in weights {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(key, value, "must be 0 or above"));
            }
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            let remedy = "must be above 0, or another loss weight: there is nothing to learn";
            return Err(Error::config("cls_loss_weight", 0, remedy));
        }
        Ok(())
    }

    /// Numbers of prototypes of class tokens and of patches in the teacher.
    pub fn prototypes(&self) -> [usize; 2] {
        let of_patches = if self.teacher_shares_head() {
            self.n_cls_prototypes
        } else {
            self.n_patch_prototypes
        };
        [self.n_cls_prototypes, of_patches]
    }

    /// Whether the teacher's patches share its class tokens' head.
    pub fn teacher_shares_head(&self) -> bool {
        self.shared_head_teacher.unwrap_or(self.shared_head)
    }

    fn validate_teachers_head(&self) -> Result<()> {
        let refused =
            |value: bool, remedy: String| Err(Error::config("shared_head_teacher", value, remedy));
        match (self.shared_head, self.teacher_shares_head()) {
            (true, false) => refused(
                false,
                "must be true with shared_head: the teacher averages the student's heads".into(),
            ),
            (false, true) if self.n_cls_prototypes != self.n_patch_prototypes => refused(
                true,
                format!(
                    "needs as many n_patch_prototypes ({}) as n_cls_prototypes ({}): the student's patches learn what the shared head says",
                    self.n_patch_prototypes, self.n_cls_prototypes,
                ),
            ),
            _ => Ok(()),
        }
    }

    /// How images are masked.
    pub fn mask_policy(&self) -> MaskPolicy {
        MaskPolicy {
            ratio: self.mask_ratio.clone(),
            probability: self.mask_probability,
            shape: self.mask_shape,
            block_min: self.mask_block_min,
            block_aspect: self.mask_block_aspect,
            start_epoch: self.mask_start_epoch,
        }
    }

    /// Temperatures of patch targets before and after the warm-up.
    fn patch_temperatures(&self) -> [f64; 2] {
        [
            self.temperature_teacher_patch_warmup
                .unwrap_or(self.temperature_teacher_warmup),
            self.temperature_teacher_patch
                .unwrap_or(self.temperature_teacher),
        ]
    }

    /// Temperature of the teacher's class-token targets after so many epochs (`_teacher_temperature` of the reference,
    /// which takes whole ones).
    pub fn teacher_temperature(&self, epoch: f64) -> f64 {
        self.warmed_up(
            [self.temperature_teacher_warmup, self.temperature_teacher],
            epoch,
        )
    }

    /// Temperature of the teacher's patch targets after so many epochs; its warm-up starts with the masks (`iBOTLoss` in the
    /// paper's main_ibot.py).
    pub fn teacher_patch_temperature(&self, epoch: f64) -> f64 {
        let epoch = (epoch - self.mask_start_epoch as f64).max(0.0);
        self.warmed_up(self.patch_temperatures(), epoch)
    }

    fn warmed_up(&self, [first, last]: [f64; 2], epoch: f64) -> f64 {
        let warmup = self.warmup_epochs_temperature_teacher as f64;
        if epoch >= warmup {
            return last;
        }
        first + epoch / warmup * (last - first)
    }

    /// Coefficient of the teacher's moving average at a share of the run from 0 to 1, on a cosine from start to end
    /// (`update_ema_coefficient` of the reference, which takes the share of epochs).
    pub fn ema_decay(&self, progress: f64) -> f64 {
        let cosine = 1.0 + (progress * std::f64::consts::PI).cos();
        self.ema_decay_end - 0.5 * (self.ema_decay_end - self.ema_decay_start) * cosine
    }
}
/// A name that is not known may be replaced by a table in a run's settings, as nowhere else.
fn or_a_table(error: Error) -> Error {
    match error {
        Error::Config { key, value, remedy } if encoder_tags(split_tag(&value).0).is_empty() => {
            Error::config(
                key,
                value,
                remedy + "; or describe a shape in a [method.vit] table",
            )
        }
        other => other,
    }
}
