//! Named sets of settings.

use super::{AdamWConfig, RunConfig, ScheduleConfig};
use crate::backbone::VitConfig;
use crate::config::{ClsTargets, IbotConfig};
use crate::data::AugmentConfig;
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
fn demo() -> RunConfig {
    RunConfig {
        steps: Some(1_900),
        batch_size: 96,
        method: IbotConfig {
            image_size: 32,
            vit: Some(VitConfig {
                img_size: 32,
                patch_size: 8,
                embed_dim: 64,
                depth: 3,
                num_heads: 4,
                ..VitConfig::default()
            }),
            projector_hidden_dim: 128,
            projector_bottleneck_dim: 64,
            n_cls_prototypes: 256,
            n_patch_prototypes: 256,
            patch_loss_weight: 0.3,
            mask_ratio: MaskRatio::Range([0.1, 0.5]),
            mask_probability: 0.5,
            warmup_epochs_temperature_teacher: 0,
            ema_decay_start: 0.99,
            cls_targets: ClsTargets::Sinkhorn,
            ..IbotConfig::default()
        },
        optimizer: AdamWConfig::default(),
        schedule: ScheduleConfig {
            base_learning_rate: 3e-3 * 256.0 / 96.0,
            warmup_epochs: 3.0,
            ..ScheduleConfig::default()
        },
        augment: AugmentConfig::default(),
        ..RunConfig::default()
    }
}
