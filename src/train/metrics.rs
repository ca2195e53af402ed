//! What a run writes down: its folder, and one line of metrics a step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Rates, RunConfig, StepLosses};
use crate::backbone::TrainBackbone;
use crate::error::{Error, Result};
use crate::ibot::Ibot;
use crate::kernels::TrainBackend;
use crate::weights::{NamedTensor, state_dict, write_safetensors};

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Serialize)]
pub struct StepMetrics {
    /// Steps made, this one included.
    pub step: usize,
    /// Losses and gradient norm.
    #[serde(flatten)]
    pub losses: StepLosses,
    /// The step's scalars.
    #[serde(flatten)]
    pub rates: Rates,
    /// Seconds of the step, waiting for data included.
    pub step_s: f64,
    /// Seconds of it spent waiting for data.
    pub data_wait_s: f64,
    /// Pictures a second.
    pub images_per_s: f64,
    /// Resident memory of the process, MiB; none where the system does not tell.
    pub resident_mib: Option<f64>,
    /// Memory of live tensors on the GPU, MiB; none on the CPU.
    pub gpu_in_use_mib: Option<f64>,
}

/// The folder of a run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
}

impl RunFolder {
    /// Makes the folder and writes the resolved configuration, with the lines of `provenance` as comments.
    ///
    /// # Errors
    /// [`Error::Data`] where it holds a run already, [`Error::Io`] where it cannot be written.
    pub fn create(path: &Path, config: &RunConfig, provenance: &str) -> Result<Self> {
        let metrics_path = path.join("metrics.jsonl");
        if metrics_path.exists() {
            let reason = "holds a run already; name another folder with --out";
            return Err(Error::data(path, reason));
        }
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let config_path = path.join("config.toml");
        let comments: String = provenance
            .lines()
            .map(|line| format!("# {line}\n"))
            .collect();
        fs::write(&config_path, comments + &config.to_toml()?).map_err(Error::io(&config_path))?;
        let metrics = File::create_new(&metrics_path).map_err(Error::io(&metrics_path))?;
        Ok(Self {
            path: path.to_path_buf(),
            metrics,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &StepMetrics) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let mut line = serde_json::to_string(metrics)
            .map_err(|error| Error::io(&path)(std::io::Error::other(error)))?;
        line.push('\n');
        self.metrics
            .write_all(line.as_bytes())
            .map_err(Error::io(&path))
    }

    /// Writes the two backbones as `student.safetensors` and `teacher.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`].
    pub fn save(&self, backbones: Backbones) -> Result<()> {
        let Backbones { student, teacher } = backbones;
        write_safetensors(&self.path.join("student.safetensors"), student)?;
        write_safetensors(&self.path.join("teacher.safetensors"), teacher)
    }
}

/// The two backbones on the host, under timm's names.
#[derive(Debug, Clone)]
pub struct Backbones {
    student: BTreeMap<String, NamedTensor>,
    teacher: BTreeMap<String, NamedTensor>,
}

impl Backbones {
    /// Reads both from the device.
    pub fn of<B: TrainBackend, M: TrainBackbone<B>>(method: &Ibot<B, M>) -> Self {
        Self {
            student: state_dict(&method.student.network.backbone.valid()),
            teacher: state_dict(&method.teacher.backbone),
        }
    }
}
