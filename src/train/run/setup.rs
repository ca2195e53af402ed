//! The parts of a run before its first step: checked settings, images, a trainer, a loader.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backbone::VisionTransformer;
use crate::collective::Collective;
use crate::data::{
    FolderConfig, ImageFolder, Loader, LoaderConfig, Position, TrainViews, check_source,
};
use crate::device::DeviceGuard;
use crate::error::{Error, Result, printable};
use crate::eval::labeled_split;
use crate::kernels::TrainBackend;
use crate::path_text::absolute;
use crate::train::config::RunConfig;
use crate::train::optim::Schedule;
use crate::train::run::observer::Observer;
use crate::train::run::options::{RunOptions, StartWeights};
use crate::train::run::record::{AllowedChanges, RunRecord};
use crate::train::run::request::RunRequest;
use crate::train::trainer::{Trainer, TrainerConfig};
use crate::train::weights::{check_pretrained, load_method};

type VitTrainer<B> = Trainer<B, VisionTransformer<B>>;

/// Which weights a run has before its first step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weights<'a> {
    /// Those of a checkpoint, which are loaded later.
    OfCheckpoint,
    /// Those that the run in the folder started from, as it has no checkpoint yet and the request names no other ones.
    OfRun(&'a StartWeights),
    /// Those of the request, or new ones.
    New,
}

/// The parts of a run that do not change.
pub(super) struct RunSetup<'a> {
    pub request: &'a RunRequest,
    pub guard: DeviceGuard,
    pub stop: &'a AtomicBool,
    /// In what the run that it resumes may differ.
    pub allowed: AllowedChanges,
}

impl RunSetup<'_> {
    /// Refuses settings that exclude each other, and missing folders.
    pub fn check_request(&self, config: &RunConfig) -> Result<()> {
        let RunRequest { val, knn_every, .. } = self.request;
        match (val, config.held_out) {
            (None, None) if *knn_every > 0 => {
                let remedy = "needs labeled images to evaluate on: `val`, a folder, or `held_out`, a fraction of `data`";
                return Err(Error::config("knn_every", knn_every, remedy));
            }
            (Some(val), Some(share)) => {
                let remedy = format!(
                    "cannot be combined with `val` {}; give one of them",
                    printable(val)
                );
                return Err(Error::config("held_out", share, remedy));
            }
            _ => {}
        }
        if self.request.data.is_empty() {
            return Err(Error::config("data", "[]", "give an image folder"));
        }
        let mut folders = self.request.data.iter().chain(val);
        folders.try_for_each(|folder| check_source(folder))
    }

    /// The images to train on, and those to validate on, of `val` or held out, with the class indices of the first.
    pub fn images(
        &self,
        config: &RunConfig,
        observer: &mut dyn Observer,
    ) -> Result<(Arc<ImageFolder>, Option<Arc<ImageFolder>>)> {
        let (data, stop) = (&self.request.data, self.stop);
        let folder = match &self.request.scanned {
            Some(scanned) => ImageFolder::clone(scanned)
                .with_range(config.folder.range)
                .reduced(&config.folder, stop)?,
            None => ImageFolder::scan_all(data, &config.folder, stop)?,
        };
        let folder = folder.with_cache_shared_by(self.request.collective.size());
        observer.scanned(data, folder.summary());
        let parts = &folder.summary().parts;
        if parts.len() > 1 {
            observer.note(&format!(
                "WARNING trains on all parts of this set: {}; to keep test images out, give the part for training alone",
                parts.join(", ")
            ));
        }
        if let Some(path) = &self.request.val {
            refuse_unlabeled(&folder, "val")?;
            let of_val = FolderConfig {
                cache: None, // shares the training images' cache, so that one size limit holds for both
                range: folder.range(), // brightness is to mean the same in both
                ..config.folder.clone()
            };
            let val = ImageFolder::scan_until(path, &of_val, stop)?.with_cache_of(&folder);
            let val = val.with_classes(folder.classes())?;
            refuse_unlabeled(&val, "val")?;
            return Ok((Arc::new(folder), Some(Arc::new(val))));
        }
        let Some(share) = config.held_out else {
            return Ok((Arc::new(folder), None));
        };
        refuse_unlabeled(&folder, "held_out")?;
        let split = labeled_split(&folder.labels(), share, config.seed);
        if split.held_out.is_empty() {
            let first = data.first().map_or(Path::new(""), PathBuf::as_path);
            return Err(Error::data(
                first,
                "has too few labeled images to hold some out",
            ));
        }
        let (kept, held_out) = (split.kept.len(), split.held_out.len());
        observer.held_out(held_out, kept);
        let parts = [split.kept, split.held_out].map(|places| Arc::new(folder.part(&places)));
        let [train, val] = parts;
        Ok((train, Some(val)))
    }

    /// The record of the run, without its images.
    pub fn record(&self, config: &RunConfig) -> Result<RunRecord> {
        // a relative path would mean another folder if the run is resumed from elsewhere
        let data = self.request.data.iter();
        let pretrained = self.request.pretrained.as_ref();
        let parts = self.request.pretrained_parts;
        let pretrained = pretrained.map(|path| StartWeights::of(path, parts));
        Ok(RunRecord {
            ibot: env!("CARGO_PKG_VERSION").into(),
            backend: self.request.selected.backend().to_string(),
            device: self.request.selected.to_string(),
            data: data.map(absolute).collect::<Result<_>>()?,
            val: self.request.val.as_ref().map(absolute).transpose()?,
            images: 0,
            found: None,
            examples: 0,
            fingerprint: String::new(),
            validation: None,
            pretrained: pretrained.transpose()?,
            options: RunOptions::of(self.request),
            config: config.to_toml()?,
            ranks: self.request.collective.size(),
            has_checkpoint: false,
            failure: None,
        })
    }

    /// Which weights it has; `started_from` are those of the run in the folder.
    pub fn weights<'a>(
        &self,
        has_checkpoint: bool,
        started_from: Option<&'a StartWeights>,
    ) -> Weights<'a> {
        match (has_checkpoint, started_from, &self.request.pretrained) {
            (true, ..) => Weights::OfCheckpoint,
            (false, Some(start), None) => Weights::OfRun(start),
            (false, ..) => Weights::New,
        }
    }

    pub fn trainer<B: TrainBackend>(
        &self,
        config: &RunConfig,
        weights: Weights<'_>,
        device: &B::Device,
        observer: &mut dyn Observer,
    ) -> Result<VitTrainer<B>> {
        B::check_precision(config.precision, device)?;
        let mut method = config.method.init::<B>(config.seed, device)?;
        let start = match weights {
            Weights::OfCheckpoint => None,
            Weights::OfRun(start) => Some((start.found()?, start.parts)),
            Weights::New => {
                let path = self.request.pretrained.clone();
                path.map(|path| (path, self.request.pretrained_parts))
            }
        };
        match start {
            Some((path, parts)) => {
                method = load_method(method, &path, parts, &mut |note| observer.note(note))?;
            }
            None if matches!(weights, Weights::OfCheckpoint) => {}
            None => check_none_needed(config)?,
        }
        let trainer = TrainerConfig {
            optimizer: config.optimizer.clone(),
            seed: config.seed,
            micro_batch_size: config.micro_batch_size,
            precision: config.precision,
            collective: self.request.collective.clone(),
            wire: config.wire,
        };
        Ok(trainer.init(method, device.clone(), self.guard.clone()))
    }
}

/// Refuses to start without weights where the settings need some.
fn check_none_needed(config: &RunConfig) -> Result<()> {
    if config.method.pretrained {
        let text = "the preset adapt and `method.pretrained = true` need trained weights: name their file with `pretrained`";
        return Err(Error::Training(text.to_owned()));
    }
    Ok(())
}

/// Whether a new run could start with its weights: those that its settings need are there, and fit. For a run that is not
/// started; one that is finds out itself.
///
/// # Errors
/// As those of the run.
pub fn check_start(request: &RunRequest) -> Result<()> {
    let config = request.config.clone().resolved()?;
    match &request.pretrained {
        Some(path) => check_pretrained(&config.method, path, request.pretrained_parts),
        None => check_none_needed(&config),
    }
}

/// The images that a run would train on, without those held out. Nothing is written: no reduced images are cached.
///
/// # Errors
/// Folders that are missing or have no usable image, and settings that exclude each other.
pub fn images_to_train_on(
    request: &RunRequest,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Arc<ImageFolder>> {
    let mut config = request.config.clone();
    config.folder.cache = None;
    let config = config.resolved()?;
    let setup = RunSetup {
        request,
        guard: DeviceGuard::Cpu,
        stop,
        allowed: AllowedChanges::Nothing,
    };
    setup.check_request(&config)?;
    Ok(setup.images(&config, observer)?.0)
}

/// The loader of this rank's share of each batch, positioned at the batch of a step.
pub(in crate::train) fn loader(
    config: &RunConfig,
    images: Arc<ImageFolder>,
    step: usize,
    ranks: &dyn Collective,
) -> Result<Loader> {
    let views = train_views(config)?;
    let loader = LoaderConfig {
        batch_size: config.batch_size,
        workers: config.workers,
        seed: config.seed,
        rank: ranks.rank(),
        ranks: ranks.size(),
        ..LoaderConfig::default()
    };
    let position = Position {
        epoch: 0,
        batch: step, // a number past the epoch's end counts on into the next epochs
    };
    let examples = config.folder.examples(images);
    Loader::new(examples, views, &loader, position)
}

/// What is made of every example.
pub(super) fn train_views(config: &RunConfig) -> Result<TrainViews> {
    Ok(TrainViews {
        augment: config.augment.clone(),
        masks: config.method.mask_policy(),
        grid: [config.method.backbone()?.side(); 2],
    })
}

/// Learning rate, temperatures and decays of all steps.
pub(super) fn schedule(config: &RunConfig, steps_per_epoch: usize) -> Schedule {
    let steps = config.run_steps(steps_per_epoch);
    Schedule::new(&config.schedule, steps, steps_per_epoch, config.batch_size)
}

/// Refuses a folder without classes, because k-NN votes on them.
fn refuse_unlabeled(folder: &ImageFolder, setting: &str) -> Result<()> {
    if folder.labels().iter().any(Option::is_some) {
        return Ok(());
    }
    let reason = format!(
        "has no labeled image, which k-NN needs; put the images of each class in a subfolder, or leave out `{setting}`"
    );
    Err(Error::data(folder.root(), reason))
}
