//! Flags of `ibot train`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ibot::Result;
use ibot::backbone::Normalization;
use ibot::data::parts_of;
use ibot::files::model::ModelSource;
use ibot::train::presets::preset_names;
use ibot::train::{Interval, OnAnomaly, OnDeviceLost, PretrainedParts, RunOptions, RunRecord};

use super::choices::{ON_ANOMALY, ON_DEVICE_LOST, PRETRAINED_PARTS, one_of};
use super::device::DeviceArgs;
use super::folder_args::FolderArgs;
use super::images::ManyImages;
use super::plan::PlanArgs;
use super::ranks::RankArgs;
use super::setting::Setting;
use super::tensorboard;

/// Groups of flags.
const IMAGES: &str = "Images";
const RUN: &str = "Run folder";
const SETTINGS: &str = "Settings";
const TRAINING: &str = "Training";
const MEMORY: &str = "Memory and speed";
const FAILURES: &str = "When something goes wrong";

const EXAMPLES: &str = "Settings come from a preset, then --config, then --set, then flags. Without --preset and --config, a preset is
chosen by the number of images and the device, and named. A resumed run keeps its settings.

Examples:
  ibot train                                       the demo, on images that it draws itself
  ibot train PHOTOS --plan                         memory, disk and time
  ibot train PHOTOS --out runs/first               train; the same line resumes
  ibot train PHOTOS MORE list.txt --held-out 0.1   several sources; k-NN accuracy on a tenth of the images
  ibot train PHOTOS --preset stable-pretraining --set method.koleo_weight=0.1 --set 'augment.scale=[0.3, 1.0]'
  ibot train --resume runs/first --epochs 200 --override";

/// Flags of `ibot train`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    #[command(flatten)]
    pub images: ManyImages,
    /// Labeled image folder for k-NN evaluation before and after training; the training images are the k-NN database.
    #[arg(long, help_heading = IMAGES)]
    pub val: Option<PathBuf>,
    /// Fraction of each class to hold out for k-NN evaluation instead of --val; drawn with --seed.
    #[arg(long, value_name = "SHARE", conflicts_with = "val", help_heading = IMAGES)]
    pub held_out: Option<f64>,
    /// Also run k-NN every N epochs; the checkpoint with the best accuracy is kept. 0 for never.
    #[arg(long, value_name = "N", help_heading = IMAGES)]
    pub knn_every: Option<usize>,
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Run folder [default: runs/<time>]; a run in it resumes from its newest checkpoint.
    #[arg(long, help_heading = RUN)]
    pub out: Option<PathBuf>,
    /// Resume the run in this folder, with its own settings, images, backend and options.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "preset", "config"], help_heading = RUN)]
    pub resume: Option<PathBuf>,
    /// Resume even if settings, images or backend changed; lists the changes. In a folder with files of an earlier run
    /// but no checkpoint, start a new run; lists what it replaces.
    #[arg(long = "override", help_heading = RUN)]
    pub allow_changes: bool,
    /// Interval of checkpoints in steps (200) or time (30s, 10m, 2h) [default: 10m].
    #[arg(long, value_name = "INTERVAL", help_heading = RUN)]
    pub checkpoint_every: Option<Interval>,
    /// Number of recent checkpoints to keep (the best by k-NN is always kept) [default: 2].
    #[arg(long, value_name = "COUNT", help_heading = RUN)]
    pub keep: Option<NonZeroUsize>,
    /// Also write curves and patch images to RUN/tensorboard.
    #[arg(long, help_heading = RUN)]
    pub tensorboard: bool,
    /// Preset to start from [default: chosen by images and device; stable-pretraining with --config, demo without images].
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(preset_names()), help_heading = SETTINGS)]
    pub preset: Option<String>,
    /// TOML file of settings; docs/settings.md lists all keys.
    #[arg(long, value_name = "FILE", help_heading = SETTINGS)]
    pub config: Option<PathBuf>,
    /// One setting by its key, as in the TOML file: method.koleo_weight=0.1; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", help_heading = SETTINGS)]
    pub set: Vec<Setting>,
    /// Print all settings that have a value, as TOML with what each means, and exit.
    #[arg(long, help_heading = SETTINGS)]
    pub print_config: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
    /// Seed of weights, order, views and masks.
    #[arg(long, help_heading = TRAINING)]
    pub seed: Option<u64>,
    /// Passes over the images.
    #[arg(long, conflicts_with = "steps", help_heading = TRAINING)]
    pub epochs: Option<usize>,
    /// Optimizer steps.
    #[arg(long, help_heading = TRAINING)]
    pub steps: Option<usize>,
    /// Images per step, of all GPUs together.
    #[arg(long, help_heading = TRAINING)]
    pub batch_size: Option<usize>,
    /// Peak learning rate at a batch size of 256; the run uses this times batch size / 256.
    #[arg(long, help_heading = TRAINING)]
    pub learning_rate: Option<f64>,
    /// timm name of the backbone.
    #[arg(long, help_heading = TRAINING)]
    pub encoder: Option<String>,
    /// Input size in pixels.
    #[arg(long, help_heading = TRAINING)]
    pub image_size: Option<usize>,
    /// Weights to start from: a file, a model folder or hf:OWNER/NAME. A folder, a name or a file of ibot also sets the
    /// architecture, unless --config or --encoder is given.
    #[arg(long, value_name = "FILE", help_heading = TRAINING)]
    pub pretrained: Option<ModelSource>,
    /// What to load from --pretrained: the backbone, for both networks; or all: student and teacher with heads, mask token and
    /// centers.
    #[arg(long, value_parser = one_of(PRETRAINED_PARTS), default_value = "backbone", requires = "pretrained", help_heading = TRAINING)]
    pub pretrained_parts: PretrainedParts,
    /// imagenet, half, clip or MEAN/STD [default: that of --pretrained, else ImageNet's]; keys: mean, std of [augment].
    #[arg(long, help_heading = TRAINING)]
    pub normalization: Option<Normalization>,
    /// Images per forward and backward pass, for less memory; gradients are accumulated over the batch [default: the whole batch].
    #[arg(long, value_name = "COUNT", help_heading = MEMORY)]
    pub micro_batch_size: Option<usize>,
    /// Recompute the student's blocks in the backward pass, for less memory.
    #[arg(long, help_heading = MEMORY)]
    pub grad_checkpointing: bool,
    /// Threads that decode and augment; 0 for one per core.
    #[arg(long, help_heading = MEMORY)]
    pub workers: Option<usize>,
    /// What to do when training collapses or diverges: one prototype, uniform targets, flat features, exploding logits
    /// [default: warn].
    #[arg(long, alias = "on-sick", value_parser = one_of(ON_ANOMALY), help_heading = FAILURES)]
    pub on_anomaly: Option<OnAnomaly>,
    /// What to do when the GPU fails: stop, or resume from the newest checkpoint on the CPU [default: stop].
    #[arg(long, value_parser = one_of(ON_DEVICE_LOST), help_heading = FAILURES)]
    pub on_device_lost: Option<OnDeviceLost>,
    #[command(flatten)]
    pub plan: PlanArgs,
}

impl TrainArgs {
    /// The options as given, else those of the run that goes on, else the defaults.
    pub fn options(&self, begun: Option<&RunRecord>) -> RunOptions {
        let of_run = begun.map(|begun| begun.options).unwrap_or_default();
        RunOptions {
            knn_every: self.knn_every.unwrap_or(of_run.knn_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(of_run.checkpoint_every),
            keep: self.keep.map_or(of_run.keep, NonZeroUsize::get),
            on_anomaly: self.on_anomaly.unwrap_or(of_run.on_anomaly),
            on_device_lost: self.on_device_lost.unwrap_or(of_run.on_device_lost),
        }
    }

    /// Whether curves are written for TensorBoard: as asked, or as the run that goes on has them.
    pub fn writes_tensorboard(&self) -> bool {
        let of_run = self
            .resume
            .as_ref()
            .map(|run| run.join(tensorboard::FOLDER));
        self.tensorboard || of_run.is_some_and(|folder| folder.is_dir())
    }

    /// The folders, files and lists to train on: the part `train` of those that have one.
    ///
    /// # Errors
    /// Those of [`parts_of`].
    pub fn sources(&self) -> Result<Vec<PathBuf>> {
        let paths = self.images.paths();
        paths.iter().map(|path| part_to_train_on(path)).collect()
    }
}

/// The folder `train` of a data set with train and test folders.
fn part_to_train_on(data: &Path) -> Result<PathBuf> {
    let parts = parts_of(data)?;
    Ok(parts.map_or_else(|| data.to_path_buf(), |parts| parts.train))
}
