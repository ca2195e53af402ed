//! Named sets of settings.

use super::{AdamWConfig, RunConfig, ScheduleConfig};
use crate::backbone::VitConfig;
use crate::config::{ClsTargets, IbotConfig};
use crate::data::AugmentConfig;
use crate::data::augment::{Blur, Interpolation, Solarize};
use crate::error::{Error, Result};
use crate::masking::MaskRatio;

/// The reference's defaults.
pub const STABLE_PRETRAINING: &str = "stable-pretraining";
/// A small transformer for a CPU.
pub const DEMO: &str = "demo";

/// The settings of a preset.
///
/// # Errors
/// [`Error::Config`] for an unknown name, with the known ones.
pub fn preset(name: &str) -> Result<RunConfig> {
    match name {
        STABLE_PRETRAINING => Ok(RunConfig::default()),
        DEMO => Ok(demo()),
        _ => {
            let remedy = format!("is no preset; known are {STABLE_PRETRAINING} and {DEMO}");
            Err(Error::config("--preset", name, remedy))
        }
    }
}

/// Learns the demo's pictures in about three minutes on two cores.
///
/// Found by trying, one change at a time: the wide initial weights matter most (a width of 64 does not leave the uniform
/// loss in hundreds of steps from 0.02), then few class-token prototypes and a fast teacher. Solarizing from 0 inverts
/// a picture, which takes away the polarity of figure and ground.
fn demo() -> RunConfig {
    RunConfig {
        steps: Some(2_000),
        batch_size: 48,
        method: IbotConfig {
            image_size: 32,
            vit: Some(VitConfig {
                img_size: 32,
                patch_size: 8,
                embed_dim: 64,
                depth: 3,
                num_heads: 4,
                init_std: 0.1,
                ..VitConfig::default()
            }),
            projector_hidden_dim: 256,
            projector_bottleneck_dim: 64,
            n_cls_prototypes: 64,
            n_patch_prototypes: 256,
            mask_ratio: MaskRatio::Range([0.1, 0.5]),
            mask_probability: 0.5,
            patch_loss_weight: 0.1,
            temperature_teacher_warmup: 0.02,
            temperature_teacher: 0.02,
            warmup_epochs_temperature_teacher: 0,
            ema_decay_start: 0.9,
            cls_targets: ClsTargets::Sinkhorn,
            ..IbotConfig::default()
        },
        optimizer: AdamWConfig {
            clip_gradient_norm: Some(3.0),
            ..AdamWConfig::default()
        },
        schedule: ScheduleConfig {
            base_learning_rate: 8e-3,
            final_learning_rate: 1e-5,
            warmup_epochs: 4.0,
        },
        augment: AugmentConfig {
            interpolation: Interpolation::Bilinear,
            blur: Blur {
                probability: 0.2,
                sigma: [0.1, 1.0],
            },
            solarize: Solarize {
                threshold: 0.0,
                probability: 0.5,
            },
            mean: [0.5; 3],
            std: [0.25; 3],
            ..AugmentConfig::default()
        },
        ..RunConfig::default()
    }
}
