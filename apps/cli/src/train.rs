//! `ibot train`.

use std::io::{ErrorKind, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ibot::backbone::Normalization;
use ibot::data::Parts;
use ibot::data::demo::{default_cache_dir, ensure_demo_set};
use ibot::error::printable;
use ibot::files::checkpoint::Keep;
use ibot::files::model::{LocalModel, ModelSource, Normalized};
use ibot::train::presets::{DEMO, STABLE_PRETRAINING, preset, preset_names};
use ibot::train::{
    Every, OnDeviceLost, OnSick, PretrainedParts, RunConfig, RunRecord, RunRequest, TensorBoard,
    run,
};
use ibot::{Error, Result};

use super::choices::{ON_DEVICE_LOST, ON_SICK, PRETRAINED_PARTS, one_of};
use super::device::DeviceArgs;
use super::output::{answer, say};
use super::progress::Progress;
use super::signals::stop_on_signal;

/// Where runs go that are given no folder.
const RUNS: &str = "runs";
/// Pictures of each class that the demo trains on.
const DEMO_TRAIN_PER_CLASS: usize = 200;
/// Pictures of each class that the demo tests with.
const DEMO_TEST_PER_CLASS: usize = 50;

/// Flags of `ibot train`; a flag beats the file, the file beats the preset.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Image folder, at any depth; without it, a small labeled set is made and trained on.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Labeled image folder whose pictures k-NN classifies by those of --data, before and after.
    #[arg(long)]
    val: Option<PathBuf>,
    /// Share of --data, of each class, that is not trained on and evaluated on in place of --val; drawn by the seed.
    #[arg(long, value_name = "SHARE", conflicts_with = "val")]
    held_out: Option<f64>,
    /// k-NN every so many epochs too; the checkpoint with the best accuracy is kept.
    #[arg(
        long,
        value_name = "EPOCHS",
        default_value_t = 0,
        hide_default_value = true
    )]
    knn_every: usize,
    /// Run folder [default: runs/<time>]; a run that it holds goes on from its newest checkpoint.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in a folder, with its own settings, data and backend.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "preset", "config"])]
    resume: Option<PathBuf>,
    /// Goes on with a run although settings, data or backend are not as they were, and says which; begins anew in a folder
    /// with work in it and no checkpoint to go on from, and says what that replaces.
    #[arg(long = "override")]
    allow_changes: bool,
    /// Interval of checkpoints in steps (200) or time (30s, 10m, 2h).
    #[arg(long, value_name = "INTERVAL", default_value = "10m")]
    checkpoint_every: Every,
    /// So many checkpoints stay, beside the best by k-NN.
    #[arg(long, value_name = "COUNT", default_value = "2")]
    keep: NonZeroUsize,
    /// Writes curves and pictures of the patches to RUN/tensorboard too.
    #[arg(long)]
    tensorboard: bool,
    /// What to do when the run is sick: collapsed, uniform, flat or exploding.
    #[arg(long, value_parser = one_of(ON_SICK), default_value = "warn")]
    on_sick: OnSick,
    /// What to do when the GPU fails: end, or go on from the newest checkpoint on the CPU.
    #[arg(long, value_parser = one_of(ON_DEVICE_LOST), default_value = "stop")]
    on_device_lost: OnDeviceLost,
    /// TOML file with any of the keys that --print-config shows.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Settings to start from [default: stable-pretraining; without --data and --config, demo].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(preset_names()))]
    preset: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Seed of weights, order, views and masks.
    #[arg(long)]
    seed: Option<u64>,
    /// Passes over the data.
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<usize>,
    /// Optimizer steps.
    #[arg(long)]
    steps: Option<usize>,
    /// Pictures a step.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Threads that decode and augment; 0 for one a core.
    #[arg(long)]
    workers: Option<usize>,
    /// Keeps large pictures, reduced to twice the side of a view, in this folder from one epoch to the next.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Pictures with more pixels are skipped.
    #[arg(long, value_name = "COUNT")]
    max_pixels: Option<u64>,
    /// timm name of the backbone.
    #[arg(long)]
    encoder: Option<String>,
    /// Side of the square input, in pixels.
    #[arg(long)]
    image_size: Option<usize>,
    /// imagenet, half, clip or MEAN/STD [default: that of --pretrained, ImageNet's without it]; keys: mean, std of [augment].
    #[arg(long)]
    normalization: Option<Normalization>,
    /// Peak learning rate at a batch of 256.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// File of weights to start from; or hf:OWNER/NAME on the hub, which without --config is the encoder too.
    #[arg(long, value_name = "FILE")]
    pretrained: Option<ModelSource>,
    /// What of it: a backbone for both networks, or student and teacher with heads, mask token and centers.
    #[arg(long, value_parser = one_of(PRETRAINED_PARTS), default_value = "backbone", requires = "pretrained")]
    pretrained_parts: PretrainedParts,
    /// Prints the resulting configuration as TOML and stops.
    #[arg(long)]
    print_config: bool,
}

impl TrainArgs {
    pub fn run(self) -> Result<()> {
        let begun = self.begun()?;
        let pretrained = self.pretrained.as_ref().map(ModelSource::resolve);
        let pretrained = pretrained.transpose()?;
        let (config, normalization) = self.resolved_config(begun.as_ref(), pretrained.as_ref())?;
        if self.print_config {
            return answer(config.to_toml()?.trim_end());
        }
        if let Some(normalization) = normalization {
            say(normalization);
        }
        let device = match &begun {
            Some(begun) => self.device.clone().or(begun.backend.parse()?),
            None => self.device.clone(),
        };
        let selected = device.select()?;
        let (data, val) = self.pictures(begun, &config)?;
        let stop = stop_on_signal()?;
        let mut made_out = None;
        let out = match self.out.clone().or(self.resume.clone()) {
            Some(out) => out,
            None => made_out.insert(default_out()?).clone(),
        };
        let request = RunRequest {
            config,
            data,
            out,
            selected,
            pretrained: pretrained.map(|local| local.file),
            pretrained_parts: self.pretrained_parts,
            val,
            knn_every: self.knn_every,
            checkpoint_every: self.checkpoint_every,
            keep: Keep {
                last: self.keep.get(),
                ..Keep::default()
            },
            allow_changes: self.allow_changes,
            on_sick: self.on_sick,
            on_device_lost: self.on_device_lost,
        };
        let ended = self.train(&request, &stop);
        if let Some(out) = made_out {
            // only where they are empty: no run began
            let _ = std::fs::remove_dir(&out).and_then(|()| std::fs::remove_dir(RUNS));
        }
        ended
    }

    /// The run that --resume names.
    fn begun(&self) -> Result<Option<RunRecord>> {
        let Some(run) = &self.resume else {
            return Ok(None);
        };
        let record = RunRecord::read(run)?.ok_or_else(|| {
            let reason = match run.exists() {
                true => "holds no run to go on with: there is no run.json",
                false => "does not exist: there is no run to go on with",
            };
            Error::checkpoint(run, reason)
        })?;
        Ok(Some(record))
    }

    fn train(&self, request: &RunRequest, stop: &AtomicBool) -> Result<()> {
        let mut progress = Progress::new(std::io::stdout().is_terminal());
        match self.tensorboard {
            true => run(request, stop, &mut TensorBoard::new(&mut progress)),
            false => run(request, stop, &mut progress),
        }
    }

    /// The pictures to train on, and those that k-NN is asked about: those of the run, or of the demo, where none are named.
    fn pictures(
        &self,
        begun: Option<RunRecord>,
        config: &RunConfig,
    ) -> Result<(PathBuf, Option<PathBuf>)> {
        let (begun, begun_val) = begun.map(|begun| (begun.data, begun.val)).unzip();
        let begun_val = begun_val.flatten().filter(|_| self.val.is_none());
        if let Some(val) = &begun_val {
            refuse_moved(val, "--val")?;
        }
        let val = self.val.clone().or(begun_val);
        match (&self.data, begun) {
            (Some(data), _) => Ok((part_to_train_on(data), val)),
            (None, Some(begun)) => {
                refuse_moved(&begun, "--data")?;
                Ok((begun, val))
            }
            (None, None) => {
                let set = ensure_demo_set(
                    &default_cache_dir()?,
                    DEMO_TRAIN_PER_CLASS,
                    DEMO_TEST_PER_CLASS,
                )?;
                let test = config.held_out.is_none().then_some(set.test);
                Ok((set.train, val.or(test)))
            }
        }
    }

    fn resolved_config(
        &self,
        begun: Option<&RunRecord>,
        pretrained: Option<&LocalModel>,
    ) -> Result<(RunConfig, Option<Normalized>)> {
        // a run's config.toml names every key that is set: over the demo, an absent one would be the demo's
        let default = if self.data.is_some() || self.config.is_some() {
            STABLE_PRETRAINING
        } else {
            DEMO
        };
        let mut config = match (begun, &self.resume) {
            (Some(begun), Some(run)) => begun.config(run)?,
            _ => preset(self.preset.as_deref().unwrap_or(default))?,
        };
        let before = config.clone();
        if let Some(path) = &self.config {
            config = config.merged_with_file(path)?;
        }
        let of_model = pretrained.filter(|_| begun.is_none() && self.config.is_none());
        if self.epochs.is_some() {
            config.steps = None;
        }
        config.steps = self.steps.or(config.steps);
        let of_model = of_model.and_then(|model| model.described.encoder.as_ref());
        if let Some(encoder) = self.encoder.as_ref().or(of_model) {
            config.method.encoder_name.clone_from(encoder);
            config.method.vit = None;
        }
        config.held_out = self.held_out.or(config.held_out);
        set(&mut config.epochs, self.epochs);
        set(&mut config.seed, self.seed);
        set(&mut config.batch_size, self.batch_size);
        set(&mut config.workers, self.workers);
        set(&mut config.folder.max_pixels, self.max_pixels);
        if self.cache.is_some() {
            config.folder.cache.clone_from(&self.cache);
        }
        set(&mut config.method.image_size, self.image_size);
        set(&mut config.schedule.base_learning_rate, self.learning_rate);
        config.method.pretrained |= self.pretrained.is_some();
        let normalization = match pretrained.filter(|_| begun.is_none()) {
            Some(weights) => self.normalization(before, &mut config, weights)?,
            None => None,
        };
        if let Some(asked) = self.normalization {
            (config.augment.mean, config.augment.std) = (asked.mean, asked.std);
        }
        Ok((config.resolved()?, normalization))
    }

    /// Gives the pictures the normalization of the weights where no flag and no key of --config sets another one, and says
    /// which it is; `before` are the settings without --config.
    fn normalization(
        &self,
        mut before: RunConfig,
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
        (before.augment.mean, before.augment.std) = (own.values.mean, own.values.std);
        if let Some(path) = &self.config {
            before = before.merged_with_file(path)?;
        }
        let (mean, std) = (before.augment.mean, before.augment.std);
        (config.augment.mean, config.augment.std) = (mean, std);
        let values = Normalization { mean, std };
        if values == own.values {
            return Ok(Some(own));
        }
        let why = format!("by --config; that of the weights is {}", own.values);
        Ok(Some(Normalized { values, why }))
    }
}

/// The part `train` of a data set that has parts; says what is left out.
fn part_to_train_on(data: &Path) -> PathBuf {
    let Some(Parts { train, val, .. }) = Parts::of(data) else {
        return data.to_path_buf();
    };
    let val = val.map_or_else(String::new, |val| {
        format!(
            "; --val {} would ask k-NN about its pictures",
            printable(val)
        )
    });
    let (data, shown) = (printable(data), printable(&train));
    say(format_args!(
        "data {data}: has parts; trains on {shown} alone{val}"
    ));
    train
}

fn set<T: Copy>(target: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *target = value;
    }
}

/// A folder of this run alone: of two that begin in one second, each has its own.
fn default_out() -> Result<PathBuf> {
    let time = chrono::Local::now().format("%Y-%m-%d_%H-%M-%S").to_string();
    let runs = PathBuf::from(RUNS);
    std::fs::create_dir_all(&runs).map_err(Error::io(&runs))?;
    let mut out = runs.join(&time);
    for number in 2.. {
        match std::fs::create_dir(&out) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                out = runs.join(format!("{time}_{number}"));
            }
            Err(error) => return Err(Error::io(&out)(error)),
            Ok(()) => break,
        }
    }
    Ok(out)
}

/// The pictures of a run may have moved since.
fn refuse_moved(folder: &Path, flag: &str) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let reason = format!(
        "is where the pictures of this run were, and does not exist: if they moved, name their new folder with {flag}"
    );
    Err(Error::data(folder, reason))
}
