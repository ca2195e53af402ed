//! The folder of a run: settings, metrics, backbones, checkpoints.
//!
//! ```text
//! run.json                          how it began: RunRecord
//! config.toml                       its settings, to read and to repeat it with
//! metrics.jsonl                     one line a step
//! teacher.safetensors, student.safetensors
//! checkpoints/step-000000120/       see ibot::checkpoint
//! lock                              held by the process that trains
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::health::{Health, Sickness};
use super::lock::RunLock;
use super::state::{Tensors, backbones};
use super::{Evaluation, Observer, Rates, RunConfig, RunRecord, StepLosses};
use crate::checkpoint::{Checkpoint, Keep, Manifest, Saving, Store};
use crate::error::{Error, Result};
use crate::model::{ModelCard, write_model};
use crate::unfinished::write_whole;

const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";
const CONFIG: &str = "config.toml";

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
    /// What the batch showed of the run's health; at some steps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What is wrong with the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sick: Vec<Sickness>,
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

/// The folder of a run, locked for this process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: Option<File>,
    store: Store,
    saving: Saving,
    keep: Keep,
    lock: Option<RunLock>,
}

impl RunFolder {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where another process trains in it, [`Error::Io`] where it cannot be written.
    pub fn open(path: &Path, keep: Keep) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            metrics: None,
            store: Store::of_run(path),
            saving: Saving::default(),
            keep,
            lock: Some(RunLock::take(path)?),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its newest good checkpoint, if it holds a run that `record` goes on with; says which damaged ones it passes over.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where the run began with other settings, unless `allow_changes`, which says so instead; or
    /// where no checkpoint of several is good.
    pub fn continued(
        &self,
        record: &RunRecord,
        allow_changes: bool,
        observer: &mut dyn Observer,
    ) -> Result<Option<Checkpoint>> {
        let Some(before) = RunRecord::read(&self.path)? else {
            if self.path.join(METRICS).exists() {
                let reason = "holds a run that cannot be gone on with: it has no run.json; name another folder with --out";
                return Err(Error::checkpoint(&self.path, reason));
            }
            return Ok(None);
        };
        let changes = record.changes(&before, &self.path)?;
        if !changes.is_empty() {
            let list: Vec<String> = changes
                .iter()
                .map(|change| format!("\n  {change}"))
                .collect();
            let list = list.concat();
            if !allow_changes {
                let reason = format!(
                    "holds a run with other settings:{list}\nname another folder with --out, or go on with the new ones by --override"
                );
                return Err(Error::checkpoint(&self.path, reason));
            }
            observer.note(&format!(
                "--override: the run goes on with other settings:{list}"
            ));
        }
        let (newest, damaged) = self.store.newest()?;
        for damaged in damaged {
            observer.note(&format!("passed over a checkpoint: {}", damaged.error));
        }
        let from = newest.as_ref().map_or_else(
            || "the beginning: it has no checkpoint yet".to_owned(),
            |newest| format!("step {}", newest.manifest.step),
        );
        observer.note(&format!("run {}: goes on from {from}", self.path.display()));
        Ok(newest)
    }

    /// Writes down how the run began, and forgets what was written after `step`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&mut self, record: &RunRecord, config: &RunConfig, step: usize) -> Result<()> {
        let text = config.to_toml()?;
        let comments = format!(
            "# ibot {}\n# data {}\n# backend {}\n",
            record.ibot,
            record.data.display(),
            record.backend
        );
        write_whole(&self.path.join(CONFIG), (comments + &text).as_bytes())?;
        record.write(&self.path)?;
        self.rewind(step)
    }

    /// Forgets checkpoints and metrics after `step`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rewind(&mut self, step: usize) -> Result<()> {
        self.saving.finish()?;
        self.store.remove_temporary()?;
        self.store.remove_after(step)?;
        lines_while(&self.path.join(EVALUATIONS), |of| of <= step)?;
        self.metrics = Some(lines_while(&self.path.join(METRICS), |of| of <= step)?);
        Ok(())
    }

    /// Appends one line to `evaluations.jsonl`; one of the same step is made anew.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log_evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let path = self.path.join(EVALUATIONS);
        let mut file = lines_while(&path, |of| of < evaluation.step)?;
        append(&mut file, &path, evaluation)
    }

    /// Appends one line to `metrics.jsonl`, and says what a write beside the training ran into.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.saving.check()?;
        let path = self.path.join(METRICS);
        let file = self.metrics.as_mut();
        let file = file.ok_or_else(|| Error::checkpoint(&path, "is not open: no run began"))?;
        append(file, &path, metrics)
    }

    /// Writes a checkpoint and both backbones, beside the training.
    ///
    /// # Errors
    /// What the write before it ran into.
    pub fn checkpoint(
        &mut self,
        manifest: Manifest,
        tensors: Tensors,
        cards: [ModelCard; 2],
    ) -> Result<()> {
        let (store, keep, path) = (self.store.clone(), self.keep, self.path.clone());
        if let Some(metrics) = &self.metrics {
            let file = path.join(METRICS);
            metrics.sync_data().map_err(Error::io(file))?;
        }
        self.saving.start(move || {
            let backbones = backbones(&tensors);
            store.write(&Checkpoint { manifest, tensors }, keep)?;
            write_backbones(&path, &backbones, &cards)
        })
    }

    /// Writes the backbones of student and teacher, beside the training.
    ///
    /// # Errors
    /// What the write before it ran into.
    pub fn export(&mut self, backbones: [Tensors; 2], cards: [ModelCard; 2]) -> Result<()> {
        let path = self.path.clone();
        self.saving
            .start(move || write_backbones(&path, &backbones, &cards))
    }

    /// The newest good checkpoint.
    ///
    /// # Errors
    /// As [`Store::newest`].
    pub fn newest(&mut self) -> Result<Option<Checkpoint>> {
        self.saving.finish()?;
        Ok(self.store.newest()?.0)
    }

    /// Waits for what is being written.
    ///
    /// # Errors
    /// What the write ran into.
    pub fn finish(&mut self) -> Result<()> {
        self.saving.finish()
    }
}

impl Drop for RunFolder {
    /// A folder in which no run began is left as it was found.
    fn drop(&mut self) {
        let _ = self.saving.finish();
        let is_run =
            self.metrics.is_some() || matches!(RunRecord::read(&self.path), Ok(Some(_)) | Err(_));
        if let Some(lock) = self.lock.take().filter(|_| !is_run) {
            lock.remove();
            let _ = fs::remove_dir(&self.path); // only where it is empty
        }
    }
}

fn write_backbones(folder: &Path, backbones: &[Tensors; 2], cards: &[ModelCard; 2]) -> Result<()> {
    let mut pairs = cards.iter().zip(backbones);
    pairs.try_for_each(|(card, tensors)| {
        write_model(
            &folder.join(format!("{}.safetensors", card.network)),
            card,
            tensors,
        )
    })
}

fn append(file: &mut File, path: &Path, line: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(line)
        .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(Error::io(path))
}

/// The file, cut before the first line whose step is not to stay, and open at its end.
fn lines_while(path: &Path, stays: impl Fn(usize) -> bool) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path).map_err(Error::io(path))?;
    let cut = |file: &mut File| {
        let length = length_while(file, &stays)?;
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))
    };
    cut(&mut file).map_err(Error::io(path))?;
    Ok(file)
}

/// Length of the whole lines before the first one whose step is not to stay.
fn length_while(file: &File, stays: impl Fn(usize) -> bool) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Line {
        step: usize,
    }
    let mut reader = BufReader::new(file);
    let (mut length, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Line>(&line) {
            Ok(found) if whole && stays(found.step) => length += read as u64,
            _ => return Ok(length),
        }
    }
}
