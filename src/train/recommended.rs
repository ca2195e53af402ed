//! Settings for a run that names none: by the number of images, the device and its memory.

use std::sync::Arc;

use crate::data::ImageFolder;
use crate::device::Selected;
use crate::error::{Result, counted};
use crate::eval::labeled_split;
use crate::memory::in_gib;
use crate::train::config::RunConfig;
use crate::train::plan::{Choosable, Plan, PlannedDevice};
use crate::train::presets::{ADAPT, SMALL_DATA, STABLE_PRETRAINING, preset};

/// Up to this many images get few prototypes, which few images can fill. Measured with 4 000 (docs/recipes.md, "Small data");
/// where the reference's many pay is not.
const FEW: usize = 20_000;
/// A transformer, its patches, a side and epochs for a CPU: an epoch takes about a twentieth of that of ViT-S/16 at 224, by counting
/// operations.
const ENCODER_OF_CPU: &str = "vit_tiny_patch16_224";
const PATCH_OF_CPU: usize = 16;
const SIDE_OF_CPU: usize = 96;
const EPOCHS_OF_CPU: usize = 100;

/// Settings, and why these.
#[derive(Debug, Clone, PartialEq)]
pub struct Recommended {
    /// The preset that they start from.
    pub preset: &'static str,
    /// The settings.
    pub config: RunConfig,
    /// What decided, in words: `120 images on a CPU`.
    pub reason: String,
}

/// What a run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// Random weights of any transformer.
    AnyModel,
    /// Random weights of a transformer or an input size that the caller names and sets in what is chosen.
    NamedModel {
        /// Pixels of a side of its patches.
        patch_size: usize,
    },
    /// A backbone that somebody trained.
    Backbone,
    /// Both networks with their heads, for which the reference's are as likely as any.
    Heads,
}

/// Settings for so many images on a device: a preset, a batch that leaves at most a tenth of the images out of each epoch and,
/// without weights to start from, an encoder, an input size and epochs that a CPU can train; a GPU gets a smaller encoder for
/// [`StartFrom::AnyModel`] alone.
///
/// These are not the reference's settings, which are [`RunConfig::default`] and the preset `stable-pretraining`.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) if a built-in preset cannot be read, which a test excludes.
pub fn recommended(images: usize, selected: &Selected, from: StartFrom) -> Result<Recommended> {
    let is_slow = match selected {
        Selected::Wgpu { adapter, .. } => adapter.is_software(),
        Selected::Flex | Selected::NdArray => true,
    };
    let name = match from {
        StartFrom::Backbone => ADAPT,
        StartFrom::Heads => STABLE_PRETRAINING,
        _ if images <= FEW || is_slow => SMALL_DATA,
        _ => STABLE_PRETRAINING,
    };
    let new_patches = match from {
        StartFrom::AnyModel => Some(PATCH_OF_CPU),
        StartFrom::NamedModel { patch_size } => Some(patch_size.max(1)),
        StartFrom::Backbone | StartFrom::Heads => None,
    };
    let mut config = preset(name)?;
    config.batch_size = batch_size(images, config.batch_size);
    let mut reason = format!("{} on {}", counted(images, "image"), kind(selected));
    match from {
        StartFrom::AnyModel | StartFrom::NamedModel { .. } => {}
        StartFrom::Backbone => reason = format!("trained weights and {reason}"),
        StartFrom::Heads => "weights with their heads".clone_into(&mut reason),
    }
    if let Some(patch) = new_patches.filter(|_| is_slow) {
        ENCODER_OF_CPU.clone_into(&mut config.method.encoder_name);
        config.method.image_size = (SIDE_OF_CPU / patch).max(1) * patch;
        config.epochs = EPOCHS_OF_CPU;
    } else if from == StartFrom::AnyModel && !fits(&config, selected, images) {
        ENCODER_OF_CPU.clone_into(&mut config.method.encoder_name);
        reason += ", which has too little memory for ViT-S";
    }
    Ok(Recommended {
        preset: name,
        config,
        reason,
    })
}

/// [`recommended`], with the caller's own settings on top: `own` puts them on what it is given. Where the memory asks for it, the
/// batch is then computed in parts or with checkpointing, as far as they `may` be chosen, which changes no number.
///
/// # Errors
/// Those of `own`, and settings that cannot work.
pub fn recommended_with(
    images: usize,
    selected: &Selected,
    from: StartFrom,
    may: Choosable,
    own: &dyn Fn(RunConfig) -> Result<RunConfig>,
) -> Result<Recommended> {
    let chosen = recommended(images, selected, from)?;
    let config = own(chosen.config)?.resolved()?;
    let plan = Plan::new(&config, selected, images, may);
    let config = match plan.ok().filter(|plan| plan.verdict.may_run()) {
        Some(plan) => plan.applied_to(config),
        None => config,
    };
    Ok(Recommended { config, ..chosen })
}

/// How many of these images are trained on with these settings: without those that are held out, and as tiles where they are cut.
#[must_use]
pub fn training_examples(images: &Arc<ImageFolder>, config: &RunConfig) -> usize {
    let kept = match config.held_out {
        None => images.clone(),
        Some(share) => {
            let kept = labeled_split(&images.labels(), share, config.seed).kept;
            Arc::new(images.part(&kept))
        }
    };
    config.folder.examples(kept).len()
}

/// Whether a run fits the device, with any micro-batch and checkpointing; also where that is not known.
fn fits(config: &RunConfig, selected: &Selected, images: usize) -> bool {
    let may = Choosable::left_open_by(None);
    Plan::new(config, selected, images, may).map_or(true, |plan| plan.verdict.may_run())
}

/// The device in words, with its memory if it is a GPU that tells.
fn kind(selected: &Selected) -> String {
    let Selected::Wgpu { adapter, .. } = selected else {
        return "a CPU".to_owned();
    };
    if adapter.is_software() {
        return "a software GPU".to_owned();
    }
    match PlannedDevice::of(selected).memory_bytes {
        Some(bytes) => format!("a GPU with {}", in_gib(bytes)),
        None => "a GPU".to_owned(),
    }
}

/// The largest batch up to `most` whose full batches leave out at most a tenth of the images.
fn batch_size(images: usize, most: usize) -> usize {
    let leaves_few = |size: &usize| images % size <= images / 10;
    let sizes = 2..=most.min(images.max(2));
    sizes.rev().find(leaves_few).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_use_nine_tenths_of_the_images() {
        for (images, size) in [
            (20, 20),
            (64, 64),
            (70, 64),
            (100, 50),
            (120, 60),
            (200, 64),
            (1 << 20, 64),
        ] {
            assert_eq!(batch_size(images, 64), size, "{images}");
        }
        for images in 2..2_000 {
            let size = batch_size(images, 64);
            assert!((2..=64).contains(&size) && images % size <= images / 10);
        }
        assert_eq!(batch_size(1, 64), 2);
    }

    #[test]
    fn a_cpu_gets_a_small_transformer_and_input() {
        let chosen = recommended(30_000, &Selected::Flex, StartFrom::AnyModel).unwrap();
        assert_eq!(chosen.preset, SMALL_DATA);
        assert_eq!(chosen.config.method.encoder_name, ENCODER_OF_CPU);
        assert_eq!(chosen.reason, "30000 images on a CPU");
        assert!(chosen.config.resolved().is_ok());
        let of = |from| recommended(120, &Selected::Flex, from).unwrap();
        let named = of(StartFrom::NamedModel { patch_size: 14 });
        assert_eq!(named.config.batch_size, 60);
        assert_eq!(named.config.method.image_size, 84);
        assert_eq!(named.config.epochs, EPOCHS_OF_CPU);
        assert_eq!(of(StartFrom::Backbone).preset, ADAPT);
        assert_eq!(of(StartFrom::Heads).preset, STABLE_PRETRAINING);
    }
}
