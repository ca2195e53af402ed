//! The folder of a run.
//!
//! ```text
//! config.toml            its settings, to read
//! metrics.jsonl          one line an epoch
//! best.safetensors       the classifier that was best on the held-out pictures
//! last.safetensors       the newest one
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::NamedTensor;
use crate::files::model::{ModelCard, write_model};
use crate::finetune::config::FinetuneConfig;
use crate::finetune::observer::EpochMetrics;
use crate::unfinished::write_whole;

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
/// The classifier that was best on the held-out pictures.
pub(super) const BEST: &str = "best.safetensors";
/// The newest one.
pub(super) const LAST: &str = "last.safetensors";
/// Files that mark a folder as used, by fine-tuning or pre-training.
const MARKS: [&str; 4] = [METRICS, BEST, LAST, "run.json"];

/// The folder of a run, with its metrics open.
pub(super) struct FinetuneFolder {
    path: PathBuf,
    metrics: File,
}

impl FinetuneFolder {
    /// # Errors
    /// [`Error::Checkpoint`] where the folder holds a run.
    pub fn refuse_used(path: &Path) -> Result<()> {
        match MARKS.iter().find(|mark| path.join(mark).exists()) {
            Some(mark) => Err(used(path, mark)),
            None => Ok(()),
        }
    }

    /// Makes the folder, with the settings of the run; `comments` go before them, each a line.
    ///
    /// # Errors
    /// As [`FinetuneFolder::refuse_used`], also where another process was faster; [`Error::Io`].
    pub fn begin(path: &Path, config: &FinetuneConfig, comments: &[String]) -> Result<Self> {
        Self::refuse_used(path)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let file = path.join(METRICS);
        let made = OpenOptions::new().write(true).create_new(true).open(&file);
        let metrics = made.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => used(path, METRICS),
            _ => Error::io(&file)(error),
        })?;
        let settings = toml::to_string(config)
            .map_err(|error| Error::config("config", "unwritable", error.to_string()))?;
        let comments: String = comments.iter().map(|line| format!("# {line}\n")).collect();
        write_whole(&path.join(CONFIG), (comments + &settings).as_bytes())?;
        Ok(Self {
            path: path.to_path_buf(),
            metrics,
        })
    }

    /// Appends one line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let path = self.path.join(METRICS);
        let mut line = serde_json::to_string(metrics)
            .map_err(|error| Error::io(&path)(std::io::Error::other(error)))?;
        line.push('\n');
        self.metrics
            .write_all(line.as_bytes())
            .map_err(Error::io(&path))
    }

    /// Writes a classifier atomically, and returns its path.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn export(
        &self,
        name: &str,
        card: &ModelCard,
        tensors: &BTreeMap<String, NamedTensor>,
    ) -> Result<PathBuf> {
        let path = self.path.join(name);
        write_model(&path, card, tensors)?;
        Ok(path)
    }
}

fn used(path: &Path, mark: &str) -> Error {
    let reason = format!("holds another run ({mark}); choose another folder with `out`");
    Error::checkpoint(path, reason)
}
