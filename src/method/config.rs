//! Parameters of the method, with the names and defaults of `stable_pretraining.methods.iBOT`.

use serde::{Deserialize, Serialize};

use crate::backbone::{VitConfig, encoder_tags, split_tag, vit_from_name};
use crate::error::{Error, Result, require, require_counts};
use crate::masking::{MaskPolicy, MaskRatio, MaskShape};
use crate::method::head::PrototypeNorm;

/// Largest K: one workgroup of 256 lanes reduces a row within the bound of loops of every device (65 535 rounds, rounded down).
const MAX_PROTOTYPES: usize = 16_000_000;

/// Smallest temperature: the start of the GPU's running maxima (LOWEST in chunk.wgsl) divided by it is still finite in f32.
pub const SMALLEST_TEMPERATURE: f64 = 1e-8;

/// How the teacher's logits become targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Softmax of centered logits, with a center that follows the batch means (DINO, the paper).
    Centering,
    /// Sinkhorn-Knopp over the batch (DINOv2).
    Sinkhorn,
}

/// What has equal weight in the patch loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchWeight {
    /// All masked patches of the batch (the reference).
    #[default]
    Patch,
    /// All images, whatever the number of their masked patches (the paper).
    Image,
}

/// Whether logits are computed in tiles each time they are needed, and never stored as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamingPrototypes {
    /// If the logits of a loss would be large, or larger than one tensor of the device.
    #[default]
    Auto,
    /// All logits.
    Always,
    /// No logits: an error if one tensor cannot hold them.
    Never,
}

/// Parameters of `stable_pretraining.methods.iBOT` 0.1.8 by name and default, and a few that it fixes.
///
/// "The reference" is that, "the paper" arXiv 2111.07832, "the official code" `main_ibot.py` of bytedance/ibot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IbotConfig {
    /// timm name of the backbone; ignored if there is a table `[method.vit]`. Default `"vit_small_patch16_224"`. Source: the
    /// reference.
    pub encoder_name: String,
    /// Width of the hidden layers of both heads. Default 2048. Source: the reference.
    pub projector_hidden_dim: usize,
    /// Width of the L2-normalized features before the prototypes. Default 256. Source: the reference.
    pub projector_bottleneck_dim: usize,
    /// Prototypes of the class-token head. Default 65536. Source: the reference. The paper uses 8192.
    pub n_cls_prototypes: usize,
    /// Prototypes of the patch head. Default 8192. Source: the reference and the paper.
    pub n_patch_prototypes: usize,
    /// Fraction of the patches that is masked: a number, or `[low, high]` or a list of `{ mean, spread }` that each
    /// image draws from. Default 0.3. Source: the reference. The paper draws 0, or from 0.1 to 0.5.
    pub mask_ratio: MaskRatio,
    /// Weight of the patch loss. Default 1.0. Source: the reference; `lambda2` of the official code.
    pub patch_loss_weight: f64,
    /// Temperature of the student's softmax. Default 0.1. Source: the reference and the paper.
    pub temperature_student: f64,
    /// Temperature of the teacher's targets in the first epoch. Default 0.04. Source: the reference and the paper.
    pub temperature_teacher_warmup: f64,
    /// Temperature of the teacher's targets after the warm-up. Default 0.07. Source: the reference.
    pub temperature_teacher: f64,
    /// Epochs of linear warm-up between the two. Default 30. Source: the reference and the paper.
    pub warmup_epochs_temperature_teacher: usize,
    /// EMA coefficient of the teacher in the first epoch. Default 0.996. Source: the reference and the paper.
    pub ema_decay_start: f64,
    /// EMA coefficient after the last epoch, by a cosine schedule. Default 1.0. Source: the reference and the paper.
    pub ema_decay_end: f64,
    /// Side of the square input, in pixels; a multiple of the patch size. Default 224. Source: the reference.
    pub image_size: usize,
    /// Whether the run needs trained weights, and is refused where none are given. Default false. Source: the reference, which
    /// downloads timm's; here they are a file.
    pub pretrained: bool,
    /// Probability that an image is masked at all. Default 1.0. Source: the reference; 0.5 in DINOv2.
    pub mask_probability: f64,
    /// How masked patches lie: "random" or "block". Default `"random"`. Source: the reference; "block" in the paper.
    pub mask_shape: MaskShape,
    /// Smallest area of a masked block, in patches. Default 4. Source: DINOv2; in the official code the square of a third of the
    /// shorter side of the grid, 16 for 14 x 14.
    pub mask_block_min: usize,
    /// Smallest and largest height over width of a block. Default `[0.3, 3.333]`. Source: the official code.
    pub mask_block_aspect: [f64; 2],
    /// First epoch with masks, from 0. Default 0. Source: `pred_start_epoch` of the official code.
    pub mask_start_epoch: usize,
    /// Linear layers of each head before the prototypes. Default 3. Source: the reference and the paper.
    pub projector_layers: usize,
    /// Length of the prototypes: "none" (free), "fixed" (1) or "learned". Default `"none"`. Source: the reference;
    /// `norm_last_layer` of the official code is "fixed" or, if false, "learned".
    pub prototype_norm: PrototypeNorm,
    /// Whether patches use the head of the class token, with `n_cls_prototypes`; if not, they have a whole head of their own, as in the
    /// reference. Default false. Source: the official code, which then shares all but the last layer.
    pub shared_head: bool,
    /// Whether the teacher's patches use its class-token head even if the student has two heads; `shared_head` if not
    /// set. Default none. Source: `shared_head_teacher` of the official code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_head_teacher: Option<bool>,
    /// Class-token targets: "centering" or "sinkhorn". Default `"centering"`. Source: the reference and the paper.
    pub cls_targets: TargetKind,
    /// Patch targets: "centering" or "sinkhorn". Default `"sinkhorn"`. Source: the reference; "centering" in the paper.
    pub patch_targets: TargetKind,
    /// Momentum of the class-token center. Default 0.9. Source: the reference and the official code.
    pub center_momentum: f64,
    /// Momentum of the patch center, which is that of masked patches, as in DINOv2. Default 0.9. Source: `center_momentum2` of
    /// the official code, which takes all patches.
    pub patch_center_momentum: f64,
    /// Temperature of patch targets in the first epoch; that of class tokens if not set. Default none. Source: the
    /// official code, 0.04 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_teacher_patch_warmup: Option<f64>,
    /// Temperature of patch targets after the warm-up; that of class tokens if not set. Default none. Source: the
    /// official code, 0.07 there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_teacher_patch: Option<f64>,
    /// Weight of the class-token loss. Default 1.0. Source: the reference; `lambda1` of the official code.
    pub cls_loss_weight: f64,
    /// What has equal weight in the patch loss: "patch" or "image". Default `"patch"`. Source: the reference; "image"
    /// in the paper.
    pub patch_weight: PatchWeight,
    /// Weight of the loss on visible patches, with their own targets; 0 leaves it out. Default 0.0. Source: this
    /// project.
    pub visible_loss_weight: f64,
    /// Weight of KoLeo on the student's class tokens; 0 leaves it out. Default 0.0. Source: DINOv2, 0.1 there.
    pub koleo_weight: f64,
    /// Probability to drop a residual branch of the last block of the student; it grows linearly from 0 over the
    /// blocks. Default 0.0. Source: the reference; `drop_path` of the official code is 0.1.
    pub drop_path_rate: f64,
    /// Whether the student's blocks are recomputed in the backward pass (activation checkpointing): less memory, more time,
    /// the same gradients. Default false. Source: timm's `set_grad_checkpointing`.
    pub grad_checkpointing: bool,
    /// Iterations of Sinkhorn-Knopp. Default 3. Source: the reference and DINOv2.
    pub sinkhorn_iterations: usize,
    /// Whether logits are computed in tiles and never stored: "auto", "always" or "never". Less memory, more matrix
    /// multiplications, the same numbers up to rounding. Default `"auto"`.
    pub streaming_prototypes: StreamingPrototypes,
    /// A backbone of any shape in place of `encoder_name`; its `img_size` is replaced by `image_size`. Default none.
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
            cls_targets: TargetKind::Centering,
            patch_targets: TargetKind::Sinkhorn,
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
        require_counts([
            ("projector_hidden_dim", self.projector_hidden_dim, 1 << 18),
            (
                "projector_bottleneck_dim",
                self.projector_bottleneck_dim,
                1 << 18,
            ),
            ("n_cls_prototypes", self.n_cls_prototypes, MAX_PROTOTYPES),
            (
                "n_patch_prototypes",
                self.n_patch_prototypes,
                MAX_PROTOTYPES,
            ),
            ("sinkhorn_iterations", self.sinkhorn_iterations, 1 << 10),
            ("projector_layers", self.projector_layers, 1 << 10),
        ])?;
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
            let remedy = format!("must be at least {SMALLEST_TEMPERATURE:e}, such as 0.1");
            let is_met = value.is_finite() && value >= SMALLEST_TEMPERATURE;
            require(is_met, key, value, remedy)?;
        }
        let fractions = [
            ("ema_decay_start", self.ema_decay_start),
            ("ema_decay_end", self.ema_decay_end),
            ("center_momentum", self.center_momentum),
            ("patch_center_momentum", self.patch_center_momentum),
        ];
        for (key, value) in fractions {
            let is_met = (0.0..=1.0).contains(&value);
            require(is_met, key, value, "must be from 0 to 1")?;
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
            let is_met = value.is_finite() && value >= 0.0;
            require(is_met, key, value, "must be 0 or above")?;
        }
        let remedy = "must be above 0 if all other loss weights are 0: there is nothing to learn";
        let is_met = weights.iter().any(|(_, weight)| *weight > 0.0);
        require(is_met, "cls_loss_weight", 0, remedy)
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
                    "needs as many n_patch_prototypes ({}) as n_cls_prototypes ({}), because patches use the shared head",
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

    /// Temperature of the teacher's class-token targets at `epoch`, from 0 (`_teacher_temperature` of the reference, which takes whole
    /// ones).
    pub fn teacher_temperature(&self, epoch: f64) -> f64 {
        self.warmed_up(
            [self.temperature_teacher_warmup, self.temperature_teacher],
            epoch,
        )
    }

    /// Temperature of the teacher's patch targets at `epoch`, from 0, fractions allowed; its warm-up starts with the masks (`iBOTLoss` in the
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
/// Only a run's settings can describe an unknown encoder by a table, so only their error suggests it.
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
