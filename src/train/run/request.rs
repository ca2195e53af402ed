//! What a run is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::device::Selected;
use crate::files::checkpoint::Keep;
use crate::train::config::RunConfig;
use crate::train::health::OnSick;
use crate::train::run::every::Every;
use crate::train::weights::PretrainedParts;

/// What to train on, where, and what to keep.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// All settings.
    pub config: RunConfig,
    /// Image folder.
    pub data: PathBuf,
    /// Run folder; a run that it holds goes on.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
    /// A file of weights to start from.
    pub pretrained: Option<PathBuf>,
    /// What of it.
    pub pretrained_parts: PretrainedParts,
    /// A labeled folder whose pictures k-NN classifies by those of `data`, before and after; not with
    /// [`RunConfig::held_out`].
    pub val: Option<PathBuf>,
    /// k-NN every so many epochs too; 0 for never.
    pub knn_every: usize,
    /// How often a checkpoint is written, beside the one at the end.
    pub checkpoint_every: Every,
    /// Which checkpoints stay.
    pub keep: Keep,
    /// Whether a run goes on with other settings or pictures than it began with, and begins anew where it has work and no
    /// checkpoint.
    pub allow_changes: bool,
    /// What to do when the run is sick.
    pub on_sick: OnSick,
    /// What to do when the GPU fails.
    pub on_device_lost: OnDeviceLost,
}

/// What to do when a GPU fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDeviceLost {
    /// End the run with an error.
    #[default]
    Stop,
    /// Go on from the newest checkpoint on the CPU, with Flex.
    Cpu,
}

impl RunRequest {
    /// A run without evaluation that writes a checkpoint every ten minutes, keeps the last two, and warns when it is sick.
    pub fn new(config: RunConfig, data: PathBuf, out: PathBuf, selected: Selected) -> Self {
        Self {
            config,
            data,
            out,
            selected,
            pretrained: None,
            pretrained_parts: PretrainedParts::Backbone,
            val: None,
            knn_every: 0,
            checkpoint_every: Every::Time(Duration::from_secs(600)),
            keep: Keep::default(),
            allow_changes: false,
            on_sick: OnSick::Warn,
            on_device_lost: OnDeviceLost::Stop,
        }
    }
}
