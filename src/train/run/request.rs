//! The request of a run.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::collective::{Collective, SingleProcess};
use crate::data::ImageFolder;
use crate::device::Selected;
use crate::files::checkpoint::Keep;
use crate::train::config::RunConfig;
use crate::train::health::OnAnomaly;
use crate::train::run::interval::Interval;
use crate::train::weights::PretrainedParts;

/// What to train on, where, and what to keep.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// All settings.
    pub config: RunConfig,
    /// What to train on: everything that [`ImageFolder::scan_all`] reads.
    pub data: Vec<PathBuf>,
    /// `data`, already scanned with the same `folder` settings, the cache aside; the run scans it if none.
    pub scanned: Option<Arc<ImageFolder>>,
    /// Run folder; a run in it is resumed.
    pub out: PathBuf,
    /// The device.
    pub selected: Selected,
    /// The ranks that train together, each with its share of every batch, [`SingleProcess`] by default. All have the same
    /// request but for the device; the rank numbered 0 writes the run folder, which all must see, and evaluates.
    pub collective: Arc<dyn Collective>,
    /// Whether ranks may have devices of different kinds, which round differently: all then take the tensors of rank 0 at each
    /// read of metrics and before each checkpoint. Otherwise such a run ends at its first checkpoint.
    pub mixed_devices: bool,
    /// A file of weights to start from; none by default. A run that is resumed has those that it began with, and need not
    /// name them: another file, or one where it began without, is an error.
    pub pretrained: Option<PathBuf>,
    /// Which part of that file.
    pub pretrained_parts: PretrainedParts,
    /// A labeled folder for k-NN evaluation before and after training, with `data` as the bank; not with
    /// [`RunConfig::held_out`].
    pub val: Option<PathBuf>,
    /// Also k-NN every this many epochs; 0 for never.
    pub knn_every: usize,
    /// How often a checkpoint is written, in addition to the one at the end.
    pub checkpoint_every: Interval,
    /// Which checkpoints are kept.
    pub keep: Keep,
    /// Whether a run may resume with other settings or images, and start over if it has files but no
    /// checkpoint.
    pub allow_changes: bool,
    /// What to do when the run collapses or diverges.
    pub on_anomaly: OnAnomaly,
    /// What to do when the GPU fails.
    pub on_device_lost: OnDeviceLost,
}

/// What to do when a GPU fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeviceLost {
    /// Stop the run with an error.
    #[default]
    Stop,
    /// Resume from the newest checkpoint on the CPU, with Flex; a run of several ranks stops instead.
    Cpu,
}

impl RunRequest {
    /// A run without evaluation that writes a checkpoint every ten minutes, keeps the last two, and warns of anomalies.
    pub fn new(config: RunConfig, data: Vec<PathBuf>, out: PathBuf, selected: Selected) -> Self {
        Self {
            config,
            data,
            scanned: None,
            out,
            selected,
            collective: Arc::new(SingleProcess),
            mixed_devices: false,
            pretrained: None,
            pretrained_parts: PretrainedParts::Backbone,
            val: None,
            knn_every: 0,
            checkpoint_every: Interval::default(),
            keep: Keep::default(),
            allow_changes: false,
            on_anomaly: OnAnomaly::Warn,
            on_device_lost: OnDeviceLost::Stop,
        }
    }
}
