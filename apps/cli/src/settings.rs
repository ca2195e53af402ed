//! The settings of `ibot train`: a preset, then --config, then --set, then flags.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ibot::backbone::Normalization;
use ibot::data::{FolderConfig, ImageFolder};
use ibot::device::Selected;
use ibot::files::model::{LocalModel, Normalized};
use ibot::train::plan::Choosable;
use ibot::train::presets::{DEMO, STABLE_PRETRAINING, preset};
use ibot::train::recommended::{StartFrom, recommended_with, training_examples};
use ibot::train::{PretrainedParts, RunConfig, RunRecord};
use ibot::{Error, Result};

use super::opening::Opening;
use super::setting::Setting;
use super::train_flags::TrainArgs;

/// All settings of a run, and where they are from.
pub struct Settings {
    pub config: RunConfig,
    /// `preset small-data, chosen for 120 images on a CPU`.
    pub source: String,
    /// Of the weights to start from.
    pub normalization: Option<Normalized>,
    /// Side of the images that the weights to start from were trained on, where it is known and the run is new.
    pub weights_side: Option<usize>,
    /// The images and the device, if they were looked at for the choice.
    pub scanned: Option<Arc<ImageFolder>>,
    pub selected: Option<Selected>,
}

fn set<T: Copy>(target: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *target = value;
    }
}

impl TrainArgs {
    /// The settings of the run. Where nothing names a preset, one is chosen by the images and the device.
    pub fn settings(
        &self,
        begun: Option<&RunRecord>,
        pretrained: Option<&LocalModel>,
        selected: &dyn Fn() -> Result<Selected>,
        stop: &AtomicBool,
    ) -> Result<Settings> {
        let of = |base: &RunConfig| self.applied_to(base, begun.is_some(), pretrained);
        let of_weights = pretrained.filter(|_| begun.is_none());
        let weights_side = of_weights
            .map(LocalModel::image_size)
            .transpose()?
            .flatten();
        let done = |base: &RunConfig, source: String| -> Result<Settings> {
            let (config, normalization) = of(base)?;
            Ok(Settings {
                config: config.resolved()?,
                source,
                normalization,
                weights_side,
                scanned: None,
                selected: None,
            })
        };
        if let (Some(begun), Some(run)) = (begun, &self.resume) {
            return done(&begun.config(run)?, "settings of the run".to_owned());
        }
        if let Some(name) = &self.preset {
            return done(&preset(name)?, format!("preset {name}"));
        }
        // a run's config.toml names only the keys that are set: on top of the demo, missing ones would be the demo's
        if let Some(path) = &self.config {
            let source = format!("settings of {}", ibot::error::printable(path));
            return done(&preset(STABLE_PRETRAINING)?, source);
        }
        if self.images.is_empty() {
            return done(&preset(DEMO)?, format!("preset {DEMO}"));
        }
        // the images may be more by now, and the choice another one
        let out = self.out.as_ref();
        let there = out.map(|out| Ok::<_, Error>((out, RunRecord::read(out)?)));
        if let Some((out, Some(there))) = there.transpose()? {
            return done(&there.config(out)?, "settings of the run".to_owned());
        }
        // what is wrong with flags is said before the images are looked at
        let (of_flags, _) = of(&RunConfig::default())?;
        let of_flags = of_flags.resolved()?;
        let chosen = self.chosen(&of_flags, pretrained, selected()?, stop)?;
        Ok(Settings {
            weights_side,
            ..chosen
        })
    }

    fn chosen(
        &self,
        of_flags: &RunConfig,
        pretrained: Option<&LocalModel>,
        selected: Selected,
        stop: &AtomicBool,
    ) -> Result<Settings> {
        let folder = FolderConfig {
            cache: None,
            ..of_flags.folder.clone()
        };
        let images = ImageFolder::scan_all(&self.sources()?, &folder, stop)?;
        let images = Arc::new(images);
        let from = match (pretrained, self.pretrained_parts) {
            (Some(_), PretrainedParts::All) => StartFrom::Heads,
            (Some(_), PretrainedParts::Backbone) => StartFrom::Backbone,
            (None, _) if self.names_model() => StartFrom::NamedModel {
                patch_size: of_flags.method.backbone()?.patch_size,
            },
            (None, _) => StartFrom::AnyModel,
        };
        let count = training_examples(&images, of_flags);
        let own = |config: RunConfig| Ok(self.applied_to(&config, false, pretrained)?.0);
        let chosen = recommended_with(count, &selected, from, self.choosable(), &own)?;
        let (_, normalization) = self.applied_to(&chosen.config, false, pretrained)?;
        Ok(Settings {
            config: chosen.config,
            source: format!("preset {}, chosen for {}", chosen.preset, chosen.reason),
            normalization,
            weights_side: None,
            scanned: Some(images),
            selected: Some(selected),
        })
    }

    /// Whether a flag names the transformer or its input.
    fn names_model(&self) -> bool {
        let is_model = |setting: &Setting| {
            setting.key() == "method.encoder_name"
                || setting.key() == "method.image_size"
                || setting.key().starts_with("method.vit")
        };
        self.encoder.is_some() || self.image_size.is_some() || self.set.iter().any(is_model)
    }

    /// What a plan may choose.
    pub fn choosable(&self) -> Choosable {
        let open = Choosable::left_open_by(self.config.as_deref());
        let is_set = |key: &str| self.set.iter().any(|setting| setting.key() == key);
        Choosable {
            grad_checkpointing: open.grad_checkpointing && !is_set("method.grad_checkpointing"),
            ..open
        }
    }

    /// --config, then --set.
    fn with_files(&self, base: &RunConfig) -> Result<RunConfig> {
        let base = match &self.config {
            Some(path) => base.merged_with_file(path)?,
            None => base.clone(),
        };
        let mut settings = self.set.iter();
        settings.try_fold(base, |config, setting| setting.applied_to(&config))
    }

    /// `base` with the file, the settings and the flags.
    fn applied_to(
        &self,
        base: &RunConfig,
        is_begun: bool,
        pretrained: Option<&LocalModel>,
    ) -> Result<(RunConfig, Option<Normalized>)> {
        let mut config = self.with_files(base)?;
        let of_model = pretrained.filter(|_| !is_begun && self.config.is_none());
        if self.epochs.is_some() {
            config.steps = None;
        }
        config.steps = self.steps.or(config.steps);
        let of_model = of_model.map(|model| &model.described);
        config.set_encoder(self.encoder.as_ref(), of_model);
        config.held_out = self.held_out.or(config.held_out);
        set(&mut config.epochs, self.epochs);
        set(&mut config.seed, self.seed);
        set(&mut config.batch_size, self.batch_size);
        set(&mut config.precision, self.device.precision);
        config.micro_batch_size = self.micro_batch_size.or(config.micro_batch_size);
        config.method.grad_checkpointing |= self.grad_checkpointing;
        set(&mut config.workers, self.workers);
        self.folder.apply(&mut config.folder);
        set(&mut config.method.image_size, self.image_size);
        set(&mut config.schedule.base_learning_rate, self.learning_rate);
        config.method.pretrained |= self.pretrained.is_some();
        let normalization = match pretrained.filter(|_| !is_begun) {
            Some(weights) => self.normalization(base, &mut config, weights)?,
            None => None,
        };
        if let Some(asked) = self.normalization {
            (config.augment.mean, config.augment.std) = (asked.mean, asked.std);
        }
        Ok((config, normalization))
    }

    /// Uses the normalization of the weights unless a flag, a key of --config or --set says another one, and reports
    /// which it is; `before` are the settings without those.
    fn normalization(
        &self,
        before: &RunConfig,
        config: &mut RunConfig,
        weights: &LocalModel,
    ) -> Result<Option<Normalized>> {
        let encoder = config.method.encoder_name.as_str();
        let encoder = config.method.vit.is_none().then_some(encoder);
        let Some(own) = Normalized::of_file(&weights.file, &weights.described, encoder)? else {
            return Ok(None);
        };
        if let Some(values) = self.normalization.filter(|asked| *asked != own.values) {
            let why = format!("by --normalization; that of the weights is {}", own.values);
            return Ok(Some(Normalized { values, why }));
        }
        let mut before = before.clone();
        (before.augment.mean, before.augment.std) = (own.values.mean, own.values.std);
        let before = self.with_files(&before)?;
        let (mean, std) = (before.augment.mean, before.augment.std);
        (config.augment.mean, config.augment.std) = (mean, std);
        let values = Normalization { mean, std };
        if values == own.values {
            return Ok(Some(own));
        }
        let by = match self.config {
            Some(_) => "--config",
            None => "--set",
        };
        let why = format!("by {by}; that of the weights is {}", own.values);
        Ok(Some(Normalized { values, why }))
    }
}

impl Settings {
    /// What is said of them before the first step.
    pub fn opening(&self, selected: &Selected, keep: usize) -> Opening {
        let mut source = self.source.clone();
        if let Some(normalization) = &self.normalization {
            source += &format!("; {normalization}");
        }
        let side = self.config.method.image_size;
        if let Some(own) = self.weights_side.filter(|own| *own != side) {
            source += &format!(
                "; the weights were trained at {own} pixels, positions are resampled (--image-size {own} keeps them)"
            );
        }
        Opening {
            config: self.config.clone(),
            selected: selected.clone(),
            source,
            keep,
        }
    }
}

/// The folders to train on and to evaluate on.
pub struct TrainImages {
    pub data: Vec<PathBuf>,
    pub val: Option<PathBuf>,
}
