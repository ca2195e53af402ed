//! The folder of a run.
//!
//! ```text
//! config.toml            its settings, which a run that resumes must have
//! metrics.jsonl          one line an epoch
//! best.safetensors       the classifier that was best on the held-out images
//! last.safetensors       the newest one
//! model.safetensors, config.json   the best one for timm and transformers
//! checkpoints/           what the run resumes from; removed at its end
//! lock                   held by the process that trains
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, if_there, printable};
use crate::files::NamedTensor;
use crate::files::checkpoint::{Checkpoint, Keep, Store};
use crate::files::model::{ModelCard, write_model, write_timm_folder};
use crate::finetune::config::FinetuneConfig;
use crate::finetune::observer::{EpochMetrics, FinetuneObserver};
use crate::train::RunLock;
use crate::unfinished::write_whole;

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
/// The classifier that was best on the held-out images.
pub(super) const BEST: &str = "best.safetensors";
/// The newest one.
pub(super) const LAST: &str = "last.safetensors";
/// The record of a pre-training run.
const PRE_TRAINING: &str = "run.json";
/// Lines of `config.toml` that may differ where a run resumes: which program, on what, and how many threads decode.
const MAY_DIFFER: [&str; 3] = ["# ibot ", "# backend ", "workers = "];

/// The folder of a run, locked for this process, with its metrics open.
pub(super) struct FinetuneFolder {
    path: PathBuf,
    metrics: File,
    /// Its `config.toml`.
    settings: String,
    store: Store,
    _lock: RunLock,
}

/// What was found in the folder of a run.
pub(super) enum Found {
    /// Nothing to resume from.
    Nothing,
    /// A checkpoint, with the epochs before it.
    Checkpoint(Box<Checkpoint>, Vec<EpochMetrics>),
    /// All epochs.
    Complete(Vec<EpochMetrics>),
}

impl FinetuneFolder {
    /// Refuses the folder of another kind of run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it holds a run of pre-training.
    pub fn refuse_used(path: &Path) -> Result<()> {
        match path.join(PRE_TRAINING).exists() {
            true => Err(used(path, PRE_TRAINING)),
            false => Ok(()),
        }
    }

    /// Makes the folder and locks it, with the settings of the run, or opens that of the same run; `comments` go before the
    /// settings, each a line.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where another process trains in it, or it holds a run with other settings, model or images, or
    /// one of several epochs without checkpoints that is not complete; [`Error::Io`].
    pub fn begin(
        path: &Path,
        config: &FinetuneConfig,
        comments: &[String],
        observer: &mut dyn FinetuneObserver,
    ) -> Result<(Self, Found)> {
        Self::refuse_used(path)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = RunLock::take(path)?;
        let toml = toml::to_string(config)
            .map_err(|error| Error::config("config", "unwritable", error.to_string()))?;
        let comments: String = comments.iter().map(|line| format!("# {line}\n")).collect();
        let settings = comments + &toml;
        let file = path.join(METRICS);
        let epochs = read_epochs(&file)?;
        let before = path.join(CONFIG);
        let before = if_there(&before, fs::read_to_string(&before))?;
        let has_work =
            !epochs.is_empty() || [BEST, LAST].iter().any(|name| path.join(name).exists());
        match &before {
            Some(before) => same_settings(path, before, &settings)?,
            None if has_work => return Err(used(path, METRICS)),
            None => {}
        }
        let store = Store::of_run(path);
        let found = find(path, &store, config.epochs, epochs, observer)?;
        let kept: &[EpochMetrics] = match &found {
            Found::Nothing => &[],
            Found::Checkpoint(_, epochs) | Found::Complete(epochs) => epochs,
        };
        if !matches!(found, Found::Complete(_)) {
            let lines: String = kept
                .iter()
                .map(|epoch| line(&file, epoch))
                .collect::<Result<_>>()?;
            write_whole(&file, lines.as_bytes())?;
            write_whole(&path.join(CONFIG), settings.as_bytes())?;
        }
        let metrics = OpenOptions::new().append(true).open(&file);
        let folder = Self {
            path: path.to_path_buf(),
            metrics: metrics.map_err(Error::io(&file))?,
            settings,
            store,
            _lock: lock,
        };
        Ok((folder, found))
    }

    /// Its settings, as they are in `config.toml`.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// The files of the best and the last classifier of a run.
    pub fn files(run: &Path) -> [PathBuf; 2] {
        [BEST, LAST].map(|name| run.join(name))
    }

    /// Writes a checkpoint, and removes the one before.
    ///
    /// # Errors
    /// [`Error::Io`]; the one before is untouched then.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let keep = Keep {
            last: 1,
            best: false,
        };
        // a checkpoint whose epochs the metrics lack, after a loss of power, could not be resumed
        let metrics = self.path.join(METRICS);
        self.metrics.sync_data().map_err(Error::io(metrics))?;
        self.store.write(checkpoint, keep)
    }

    /// Removes the checkpoints of a complete run, which needs none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_checkpoints(&self) -> Result<()> {
        self.store.remove_temporary()?;
        self.store.remove_after(None)?;
        let _ = fs::remove_dir(self.store.folder()); // fails where it is not there, or holds other files
        Ok(())
    }

    /// Appends one line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let path = self.path.join(METRICS);
        let line = line(&path, metrics)?;
        self.metrics
            .write_all(line.as_bytes())
            .map_err(Error::io(&path))
    }

    /// Writes a classifier atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn export(
        &self,
        name: &str,
        card: &ModelCard,
        tensors: &BTreeMap<String, NamedTensor>,
    ) -> Result<()> {
        let path = self.path.join(name);
        write_model(&path, card, tensors)?;
        match name == BEST {
            true => write_timm_folder(&path, card),
            false => Ok(()),
        }
    }
}

fn line(path: &Path, metrics: &EpochMetrics) -> Result<String> {
    let line = serde_json::to_string(metrics);
    let line = line.map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
    Ok(line + "\n")
}

/// The epochs in `metrics.jsonl`, up to the first damaged line; none without the file.
fn read_epochs(path: &Path) -> Result<Vec<EpochMetrics>> {
    let text = if_there(path, fs::read_to_string(path))?.unwrap_or_default();
    let epochs = text
        .lines()
        .map_while(|line| serde_json::from_str(line).ok());
    Ok(epochs.collect())
}

/// Refuses a run with other settings, model or images, and names the lines that differ.
fn same_settings(path: &Path, before: &str, now: &str) -> Result<()> {
    let lines = |text: &str| -> Vec<String> {
        let counted = |line: &&str| !MAY_DIFFER.iter().any(|start| line.starts_with(start));
        text.lines().filter(counted).map(str::to_owned).collect()
    };
    let (before, now) = (lines(before), lines(now));
    let others = now.iter().filter(|line| !before.contains(line));
    let others: Vec<String> = others
        .map(|line| format!("\n  {}", printable(line)))
        .collect();
    if others.is_empty() && before.len() == now.len() {
        return Ok(());
    }
    let reason = format!(
        "holds another run: its config.toml does not have{}\nchoose another folder with `out`",
        others.concat()
    );
    Err(Error::checkpoint(path, reason))
}

/// What there is to resume from.
fn find(
    path: &Path,
    store: &Store,
    wanted: usize,
    mut epochs: Vec<EpochMetrics>,
    observer: &mut dyn FinetuneObserver,
) -> Result<Found> {
    let is_written = [BEST, LAST].iter().all(|name| path.join(name).exists());
    if epochs.len() == wanted && is_written {
        observer.note(&format!("run {}: the run is complete", printable(path)));
        return Ok(Found::Complete(epochs));
    }
    let (newest, damaged) = store.newest()?;
    for damaged in damaged {
        observer.note(&format!("skipped a damaged checkpoint: {}", damaged.error));
    }
    let Some(newest) = newest else {
        // killed between its first epoch and the checkpoint of that; of more epochs, there were checkpoints
        if epochs.len() > 1 {
            return Err(used(path, "metrics.jsonl, without checkpoints"));
        }
        if !epochs.is_empty() {
            observer.note(&format!(
                "run {}: it has no checkpoint, and begins anew",
                printable(path)
            ));
        }
        return Ok(Found::Nothing);
    };
    observer.note(&format!(
        "run {}: resuming from step {}",
        printable(path),
        newest.manifest.step
    ));
    if epochs.len() < newest.manifest.epoch {
        let reason = "its metrics.jsonl lacks epochs before its checkpoint; choose another folder with `out`";
        return Err(Error::checkpoint(path, reason));
    }
    epochs.truncate(newest.manifest.epoch);
    Ok(Found::Checkpoint(Box::new(newest), epochs))
}

fn used(path: &Path, mark: &str) -> Error {
    let reason = format!("holds another run ({mark}); choose another folder with `out`");
    Error::checkpoint(path, reason)
}
