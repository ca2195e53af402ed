//! `ibot train`.

use std::io::{ErrorKind, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ibot::backbone::Normalization;
use ibot::data::Parts;
use ibot::data::demo::{default_cache_dir, ensure_demo_set};
use ibot::device::Selected;
use ibot::error::printable;
use ibot::files::checkpoint::Keep;
use ibot::files::model::{LocalModel, ModelSource, Normalized};
use ibot::train::presets::{DEMO, STABLE_PRETRAINING, preset, preset_names};
use ibot::train::{
    Every, OnAnomaly, OnDeviceLost, PretrainedParts, RunConfig, RunRecord, RunRequest, run,
};
use ibot::{Error, Result};

use super::choices::{ON_ANOMALY, ON_DEVICE_LOST, PRETRAINED_PARTS, one_of};
use super::device::DeviceArgs;
use super::output::{answer, say};
use super::plan::{
    DEMO_TEST_PER_CLASS, DEMO_TRAIN_PER_CLASS, PlanArgs, Planned, choosable, steps_made,
};
use super::progress::Progress;
use super::signals::stop_on_signal;
use super::tensorboard::TensorBoard;

/// Folder of runs without --out.
const RUNS: &str = "runs";

/// Flags of `ibot train`; a flag overrides the file, the file overrides the preset.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Image folder, searched at any depth; without it, train on a small generated set with labels.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Labeled image folder for k-NN evaluation before and after training, with --data as the bank.
    #[arg(long)]
    val: Option<PathBuf>,
    /// Fraction of each class of --data to hold out for k-NN evaluation instead of --val; drawn by the seed.
    #[arg(long, value_name = "SHARE", conflicts_with = "val")]
    held_out: Option<f64>,
    /// Also run k-NN every N epochs; the checkpoint with the best accuracy is kept.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    knn_every: usize,
    /// Run folder [default: runs/<time>]; a run in it resumes from its newest checkpoint.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Resume the run in this folder, with its own settings, data and backend.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "preset", "config"])]
    resume: Option<PathBuf>,
    /// Resume even if settings, data or backend changed; lists the changes. In a folder with files of an earlier run
    /// but no checkpoint, start a new run; lists what it replaces.
    #[arg(long = "override")]
    allow_changes: bool,
    /// Interval of checkpoints in steps (200) or time (30s, 10m, 2h).
    #[arg(long, value_name = "INTERVAL", default_value = "10m")]
    checkpoint_every: Every,
    /// Number of recent checkpoints to keep (the best by k-NN is always kept).
    #[arg(long, value_name = "COUNT", default_value = "2")]
    keep: NonZeroUsize,
    /// Also write curves and patch images to RUN/tensorboard.
    #[arg(long)]
    tensorboard: bool,
    /// What to do when training collapses or diverges: one prototype, uniform targets, flat features, exploding logits.
    #[arg(long, alias = "on-sick", value_parser = one_of(ON_ANOMALY), default_value = "warn")]
    on_anomaly: OnAnomaly,
    /// What to do when the GPU fails: stop, or resume from the newest checkpoint on the CPU.
    #[arg(long, value_parser = one_of(ON_DEVICE_LOST), default_value = "stop")]
    on_device_lost: OnDeviceLost,
    /// TOML file with any of the keys that --print-config prints.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Preset to start from [default: stable-pretraining; without --data and --config, demo].
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
    /// Images per step.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Images that the student sees at once, for less memory [default: the whole batch].
    #[arg(long, value_name = "COUNT")]
    micro_batch_size: Option<usize>,
    /// Keep only the inputs of the student's blocks and run them twice, for less memory.
    #[arg(long)]
    grad_checkpointing: bool,
    /// Threads that decode and augment; 0 for one per core.
    #[arg(long)]
    workers: Option<usize>,
    /// Cache large images in this folder, reduced to twice the side of a view.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Skip images with more pixels than this.
    #[arg(long, value_name = "COUNT")]
    max_pixels: Option<u64>,
    /// timm name of the backbone.
    #[arg(long)]
    encoder: Option<String>,
    /// Input size in pixels.
    #[arg(long)]
    image_size: Option<usize>,
    /// imagenet, half, clip or MEAN/STD [default: that of --pretrained, else ImageNet's]; keys: mean, std of [augment].
    #[arg(long)]
    normalization: Option<Normalization>,
    /// Peak learning rate at a batch of 256.
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Weights to start from: a file, or hf:OWNER/NAME on the Hugging Face hub, which without --config also sets --encoder.
    #[arg(long, value_name = "FILE")]
    pretrained: Option<ModelSource>,
    /// What to load of it: a backbone for both networks, or student and teacher with heads, mask token and centers.
    #[arg(long, value_parser = one_of(PRETRAINED_PARTS), default_value = "backbone", requires = "pretrained")]
    pretrained_parts: PretrainedParts,
    /// Print the resulting configuration as TOML and exit.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    plan: PlanArgs,
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
        if let Some(normalization) = normalization.filter(|_| !self.plan.plan) {
            say(normalization);
        }
        let device = match &begun {
            Some(begun) => self.device.clone().or(begun.backend.parse()?),
            None => self.device.clone(),
        };
        let selected = device.select()?;
        if self.plan.plan {
            return self.print_plan(begun, config, selected);
        }
        let (data, val) = self.pictures(begun, &config)?;
        let stop = stop_on_signal()?;
        let mut made_out = None;
        let out = match self.out.clone().or(self.resume.clone()) {
            Some(out) => out,
            None => made_out.insert(default_out()?).clone(),
        };
        let request = RunRequest {
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
            on_anomaly: self.on_anomaly,
            on_device_lost: self.on_device_lost,
            ..RunRequest::new(config, data, out, selected)
        };
        let ended = self.train(&request, &stop);
        if let Some(out) = made_out {
            // removes only empty folders: no run started in them
            let _ = std::fs::remove_dir(&out).and_then(|()| std::fs::remove_dir(RUNS));
        }
        ended
    }

    fn print_plan(
        &self,
        begun: Option<RunRecord>,
        config: RunConfig,
        selected: Selected,
    ) -> Result<()> {
        let is_demo = self.data.is_none() && begun.is_none();
        let may = choosable(begun.as_ref(), self.config.as_deref());
        // the demo's images may not be there, and are not made for a plan
        let (data, val) = match is_demo {
            true => (PathBuf::new(), None),
            false => self.pictures(begun, &config)?,
        };
        let request = RunRequest {
            val,
            knn_every: self.knn_every,
            ..RunRequest::new(config, data, PathBuf::new(), selected)
        };
        self.plan.print(&Planned {
            request,
            is_demo,
            may,
            made: steps_made(self.resume.as_ref().or(self.out.as_ref()))?,
        })
    }

    /// The run that --resume names.
    fn begun(&self) -> Result<Option<RunRecord>> {
        let Some(run) = &self.resume else {
            return Ok(None);
        };
        let record = RunRecord::read(run)?.ok_or_else(|| {
            let reason = match run.exists() {
                true => "not a run folder (run.json is missing)",
                false => "does not exist; give the folder of a run to resume",
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

    /// The folders to train on and to evaluate on: as given, else those of the run, else the demo's.
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
        // a run's config.toml names only the keys that are set: on top of the demo, missing ones would be the demo's
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
        set(&mut config.precision, self.device.precision);
        config.micro_batch_size = self.micro_batch_size.or(config.micro_batch_size);
        config.method.grad_checkpointing |= self.grad_checkpointing;
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

    /// Uses the normalization of the weights unless a flag or a key of --config sets another one, and reports
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

/// The folder `train` of a data set with train and test folders; reports what is left out.
fn part_to_train_on(data: &Path) -> PathBuf {
    let Some(Parts { train, val, .. }) = Parts::find(data) else {
        return data.to_path_buf();
    };
    let val = val.map_or_else(String::new, |val| {
        format!("; to evaluate, add --val {}", printable(val))
    });
    let (data, shown) = (printable(data), printable(&train));
    say(format_args!(
        "data {data}: has train and test folders; trains on {shown} only{val}"
    ));
    train
}

fn set<T: Copy>(target: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *target = value;
    }
}

/// A new folder: two runs that start in the same second get different ones.
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

/// Refuses to resume without the images of the run, which may have moved.
fn refuse_moved(folder: &Path, flag: &str) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let reason = format!(
        "the images of this run were here, but the folder does not exist; if they moved, give the new folder with {flag}"
    );
    Err(Error::data(folder, reason))
}
