//! What a run was started with beside its settings, so that it can go on in the same way.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::files::checkpoint::Keep;
use crate::files::model::file_hash;
use crate::path_text::{absolute, path_of_text, path_text};
use crate::train::health::OnAnomaly;
use crate::train::run::interval::Interval;
use crate::train::run::request::{OnDeviceLost, RunRequest};
use crate::train::weights::PretrainedParts;

/// How a run is watched and kept, which changes none of its results: the options of [`RunRequest`] with these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// k-NN every this many epochs; 0 for never.
    pub knn_every: usize,
    /// How often a checkpoint is written.
    pub checkpoint_every: Interval,
    /// Number of newest checkpoints that are kept.
    pub keep: usize,
    /// What to do when the run collapses or diverges.
    pub on_anomaly: OnAnomaly,
    /// What to do when the GPU fails.
    pub on_device_lost: OnDeviceLost,
}

impl Default for RunOptions {
    /// Those of [`RunRequest::new`].
    fn default() -> Self {
        Self {
            knn_every: 0,
            checkpoint_every: Interval::default(),
            keep: Keep::default().last,
            on_anomaly: OnAnomaly::default(),
            on_device_lost: OnDeviceLost::default(),
        }
    }
}

impl RunOptions {
    pub(super) fn of(request: &RunRequest) -> Self {
        Self {
            knn_every: request.knn_every,
            checkpoint_every: request.checkpoint_every,
            keep: request.keep.last,
            on_anomaly: request.on_anomaly,
            on_device_lost: request.on_device_lost,
        }
    }
}

/// A file of weights that a run started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartWeights {
    /// Its absolute path, as text.
    path: String,
    /// Its BLAKE3.
    hash: String,
    /// What was loaded of it.
    pub parts: PretrainedParts,
}

impl StartWeights {
    /// Those of a file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read.
    pub(super) fn of(path: &Path, parts: PretrainedParts) -> Result<Self> {
        Ok(Self {
            path: path_text(&absolute(path)?),
            hash: file_hash(path)?,
            parts,
        })
    }

    /// Where the file was.
    pub fn path(&self) -> PathBuf {
        path_of_text(&self.path)
    }

    /// Whether the same is loaded, wherever it lies.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.parts == other.parts
    }

    /// The file, for a run that has to begin again.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is gone or has changed.
    pub(super) fn found(&self) -> Result<PathBuf> {
        let path = self.path();
        let reason = if !path.exists() {
            "the run started from these weights, but there is nothing now"
        } else if file_hash(&path)? == self.hash {
            return Ok(path);
        } else {
            "the file changed since the run started from it"
        };
        let remedy =
            "give the file by `pretrained`, or begin a new run in another folder with `out`";
        let reason = format!("{reason}: {remedy}");
        Err(Error::Weights { path, reason })
    }
}

impl std::fmt::Display for StartWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = match self.parts {
            PretrainedParts::Backbone => "backbone",
            PretrainedParts::All => "all",
        };
        write!(f, "{parts} of {}", printable(self.path()))
    }
}
