//! The settings of the next run: those of the run in its folder; where that is new, a preset's, or such as are chosen for the images
//! and the device.

use std::path::{Path, PathBuf};

use ibot::app::DeviceRequest;
use ibot::device::{Selected, select};
use ibot::error::{Error, Result};
use ibot::files::checkpoint::{Keep, Store};
use ibot::train::plan::Choosable;
use ibot::train::presets::{ADAPT, preset, preset_names};
use ibot::train::recommended::{StartFrom, recommended_with};
use ibot::train::{RunConfig, RunRecord, RunRequest};

use super::gallery::TrainingImages;

/// Fraction of a labeled folder that is held out for k-NN.
const HELD_OUT: f64 = 0.1;
/// Number of k-NN evaluations in a run.
const KNN_EVALUATIONS: usize = 10;
/// The settings that are chosen by the images and the device, as `ibot train` chooses them.
pub const CHOSEN: &str = "chosen for these images";

/// What the user may change of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    pub epochs: usize,
    /// 0 where the run is as long as its epochs.
    pub steps: usize,
    pub batch_size: usize,
}

/// What the numbers were taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Source {
    #[default]
    Nothing,
    /// The run in this folder.
    Run(PathBuf),
    Preset(String),
    /// Chosen for so many images on this device.
    Chosen(usize, DeviceRequest),
}

/// Settings, run folder, and the numbers in the fields.
#[derive(Debug, Default)]
pub struct RunSettings {
    /// A preset, or [`CHOSEN`]; a run that is there keeps its own.
    pub preset: String,
    /// The run folder: a path, as not every one is text.
    pub out: PathBuf,
    pub numbers: Numbers,
    /// As they were before the user changed them.
    taken: Numbers,
    source: Source,
    /// The run in the folder that was looked at last.
    begun: Option<RunRecord>,
    looked_at: Option<PathBuf>,
}

impl Numbers {
    fn of(config: &RunConfig) -> Self {
        Self {
            epochs: config.epochs,
            steps: config.steps.unwrap_or(0),
            batch_size: config.batch_size,
        }
    }

    fn apply_to(self, config: &mut RunConfig) {
        config.epochs = self.epochs;
        config.steps = (self.steps > 0).then_some(self.steps);
        config.batch_size = self.batch_size;
        // the window has no field for it, and a smaller batch may have to do with less
        let micro = config.micro_batch_size;
        config.micro_batch_size = micro.map(|size| size.min(self.batch_size));
    }

    /// The ones of `new`, but for those that the user changed since they were `before`.
    fn renewed(self, before: Self, new: Self) -> Self {
        let either = |now, before, new| if now == before { new } else { now };
        Self {
            epochs: either(self.epochs, before.epochs, new.epochs),
            steps: either(self.steps, before.steps, new.steps),
            batch_size: either(self.batch_size, before.batch_size, new.batch_size),
        }
    }
}

impl RunSettings {
    /// Those of `preset`, in a folder that is named later.
    pub fn new(preset: &str) -> Self {
        Self {
            preset: preset.to_owned(),
            ..Self::default()
        }
    }

    /// Whether a run is in the folder, which goes on with its own settings.
    pub fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// The folder may hold another run by now.
    pub fn look_again(&mut self) {
        self.looked_at = None;
    }

    /// Takes the numbers of the run in the folder, or else of the preset or the choice, where these became others.
    ///
    /// # Errors
    /// Once: a record that cannot be read, a device that is not there.
    pub fn refresh(&mut self, images: &TrainingImages, device: &DeviceRequest) -> Result<()> {
        if self.looked_at.as_ref() != Some(&self.out) {
            self.looked_at = Some(self.out.clone());
            self.begun = None;
            self.begun = record_in(&self.out)?;
        }
        let source = match self.begun {
            Some(_) => Source::Run(self.out.clone()),
            None if self.preset != CHOSEN => Source::Preset(self.preset.clone()),
            None => Source::Chosen(training_examples(images), device.clone()),
        };
        if source == self.source || matches!(source, Source::Chosen(0, _)) {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.source, source);
        let config = match (&self.begun, &self.source) {
            (Some(begun), _) => begun.config(&self.out)?,
            (None, Source::Chosen(count, device)) => chosen(*count, device)?.0,
            (None, _) => preset(&self.preset)?,
        };
        let new = Numbers::of(&config);
        // another device is no reason to forget what the user typed
        let is_same_choice = matches!(
            (&before, &self.source),
            (Source::Chosen(before, _), Source::Chosen(now, _)) if before == now
        );
        self.numbers = if is_same_choice {
            self.numbers.renewed(self.taken, new)
        } else {
            new
        };
        self.taken = new;
        Ok(())
    }

    /// The run that these settings start, or that goes on. With `allow_changes` it may differ from the one in the folder.
    ///
    /// # Errors
    /// Settings, a record or a device that cannot be used.
    pub fn request(
        &self,
        images: &TrainingImages,
        device: &DeviceRequest,
        allow_changes: bool,
    ) -> Result<RunRequest> {
        let begun = record_in(&self.out)?;
        match begun {
            Some(begun) => self.continued(&begun, images, device, allow_changes),
            None => self.new_run(images, device),
        }
    }

    /// As `ibot train --resume`: all of the run's own but for what the user changed in the fields.
    fn continued(
        &self,
        begun: &RunRecord,
        images: &TrainingImages,
        device: &DeviceRequest,
        allow_changes: bool,
    ) -> Result<RunRequest> {
        // where changes are allowed, the library would start over in its place
        if allow_changes && begun.has_checkpoint && Store::of_run(&self.out).steps()?.is_empty() {
            let reason =
                "the run in it cannot go on: its checkpoints are gone. Name another run folder";
            return Err(Error::checkpoint(&self.out, reason));
        }
        let mut config = begun.config(&self.out)?;
        self.numbers.apply_to(&mut config);
        let options = begun.options;
        let data = vec![images.source.clone()];
        Ok(RunRequest {
            val: begun.val.clone(),
            knn_every: options.knn_every,
            checkpoint_every: options.checkpoint_every,
            keep: Keep {
                last: options.keep,
                ..Keep::default()
            },
            on_anomaly: options.on_anomaly,
            on_device_lost: options.on_device_lost,
            allow_changes,
            ..RunRequest::new(
                config.resolved()?,
                data,
                self.out.clone(),
                selected(device)?,
            )
        })
    }

    fn new_run(&self, images: &TrainingImages, device: &DeviceRequest) -> Result<RunRequest> {
        let count = training_examples(images);
        let (mut config, selected) = if self.preset == CHOSEN {
            chosen(count, device)?
        } else {
            (preset(&self.preset)?, selected(device)?)
        };
        let batch_size = self.numbers.batch_size.min(count);
        let numbers = Numbers {
            batch_size,
            ..self.numbers
        };
        numbers.apply_to(&mut config);
        let is_labeled = holds_out(images);
        config.held_out = is_labeled.then_some(HELD_OUT);
        let epochs = match config.steps {
            Some(steps) => steps * config.batch_size / images.count.max(1),
            None => config.epochs,
        };
        let knn_every = if is_labeled {
            (epochs / KNN_EVALUATIONS).max(1)
        } else {
            0
        };
        let data = vec![images.source.clone()];
        Ok(RunRequest {
            knn_every,
            ..RunRequest::new(config.resolved()?, data, self.out.clone(), selected)
        })
    }
}

/// The presets to choose from: no weights can be given to start from, which `adapt` needs.
pub fn presets() -> impl Iterator<Item = &'static str> {
    let presets = preset_names().filter(|name| *name != ADAPT);
    std::iter::once(CHOSEN).chain(presets)
}

/// The run in a folder; none where no folder is named, which is not the working directory.
fn record_in(out: &Path) -> Result<Option<RunRecord>> {
    if out.as_os_str().is_empty() {
        return Ok(None);
    }
    RunRecord::read(out)
}

fn selected(device: &DeviceRequest) -> Result<Selected> {
    match device {
        DeviceRequest::Choose(choice, name) => select(*choice, name.as_deref()),
        DeviceRequest::Selected(selected) => Ok(selected.clone()),
    }
}

/// The settings for so many images on a device, and that device.
fn chosen(count: usize, device: &DeviceRequest) -> Result<(RunConfig, Selected)> {
    let selected = selected(device)?;
    let may = Choosable::left_open_by(None);
    let chosen = recommended_with(count, &selected, StartFrom::AnyModel, may, &Ok)?;
    Ok((chosen.config, selected))
}

/// Whether a part of each class is held out: where that is an image of each or more.
fn holds_out(images: &TrainingImages) -> bool {
    images.classes > 1 && HELD_OUT * images.count as f64 >= images.classes as f64
}

/// How many images are trained on, at least.
fn training_examples(images: &TrainingImages) -> usize {
    if holds_out(images) {
        // the share of each class is rounded
        let held_out = (HELD_OUT * images.count as f64).ceil() as usize + images.classes;
        images.count.saturating_sub(held_out)
    } else {
        images.count
    }
}
