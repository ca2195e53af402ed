//! The folder of a run.
//!
//! ```text
//! config.toml            its settings, model and images, which a run that resumes must have
//! metrics.jsonl          one line an epoch
//! best.safetensors       the classifier that was best on the held-out images
//! last.safetensors       the newest one
//! model.safetensors, config.json   the best one for timm and transformers
//! checkpoints/           what the run resumes from; removed at its end
//! best-at-checkpoint.safetensors   the one that was best there, once a later one is better; removed by the next checkpoint
//! lock                   held by the process that trains
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, if_there, printable};
use crate::files::NamedTensor;
use crate::files::checkpoint::{Checkpoint, Keep, Store};
use crate::files::model::{ModelCard, read_card, write_model, write_timm_folder};
use crate::finetune::observer::{EpochMetrics, FinetuneObserver};
use crate::finetune::record::changes;
use crate::finetune::resuming::{are_first, best_of, place_of};
use crate::train::{RunLock, append, damage_in_words, read_with_damage};
use crate::unfinished::{sync_folder, write_whole};

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
/// The classifier that was best on the held-out images.
pub(super) const BEST: &str = "best.safetensors";
/// The newest one.
pub(super) const LAST: &str = "last.safetensors";
/// The classifier that was best at the checkpoint, once a later one is: a run that resumes repeats that epoch, on another device
/// with a result that may not be the best.
const BEST_AT_CHECKPOINT: &str = "best-at-checkpoint.safetensors";
/// The record of a pre-training run.
const PRE_TRAINING: &str = "run.json";

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
        if path.join(PRE_TRAINING).exists() {
            Err(used(path, PRE_TRAINING))
        } else {
            Ok(())
        }
    }

    /// Makes the folder and locks it, with `settings` from [`record`](crate::finetune::record::record), or opens that of the
    /// same run, of `epochs` epochs.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where another process trains in it, or it holds a run with other settings, model or images, or
    /// one that cannot be resumed; [`Error::Io`].
    pub fn begin(
        path: &Path,
        settings: String,
        epochs: usize,
        observer: &mut dyn FinetuneObserver,
    ) -> Result<(Self, Found)> {
        Self::refuse_used(path)?;
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = RunLock::take(path)?;
        let store = Store::of_run(path);
        let config = path.join(CONFIG);
        let backend = match if_there(&config, fs::read_to_string(&config))? {
            Some(before) => same_run(path, &before, &settings)?,
            None => match work_in(path, &store)?.join(", ") {
                work if work.is_empty() => None,
                work => return Err(used(path, &format!("{work}, without {CONFIG}"))),
            },
        };
        let found = find(path, &store, epochs, observer)?;
        if let (Found::Checkpoint(..), Some([before, now])) = (&found, backend) {
            observer.note(&format!(
                "run {}: resumes on {} instead of {}: its results are not those of an uninterrupted run, by rounding",
                printable(path),
                printable(now),
                printable(before)
            ));
        }
        let file = path.join(METRICS);
        let kept: &[EpochMetrics] = match &found {
            Found::Nothing => &[],
            Found::Checkpoint(_, epochs) | Found::Complete(epochs) => epochs,
        };
        if !matches!(found, Found::Complete(_)) {
            write_whole(&file, &lines(&file, kept)?)?;
            write_whole(&config, settings.as_bytes())?;
        }
        if let Found::Checkpoint(_, epochs) = &found {
            restore_best(path, epochs, observer)?;
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
            up_to: None,
        };
        self.store.write(checkpoint, keep)?;
        remove(&self.path.join(BEST_AT_CHECKPOINT))
    }

    /// Removes the checkpoints of a complete run, which needs none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_checkpoints(&self) -> Result<()> {
        // after a loss of power, a run that lacks both could not be told from one that is damaged
        let metrics = self.path.join(METRICS);
        self.metrics.sync_data().map_err(Error::io(metrics))?;
        self.store.remove_temporary()?;
        self.store.remove_after(None)?;
        let _ = fs::remove_dir(self.store.folder()); // fails where it is not there, or holds other files
        remove(&self.path.join(BEST_AT_CHECKPOINT))
    }

    /// Appends one line to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let path = self.path.join(METRICS);
        append(&mut self.metrics, &path, metrics)
    }

    /// Writes a classifier atomically. The best one of the checkpoint is kept until the next checkpoint, which is much cheaper
    /// than a checkpoint with each better one: it is another name of a file that is there.
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
        if name == BEST {
            keep_best(&self.path)?;
        }
        write_model(&path, card, tensors)?;
        if name == BEST {
            write_timm_folder(&path, card)
        } else {
            Ok(())
        }
    }
}

/// Gives the best classifier a second name before a later one takes the first, unless that of the checkpoint has it.
fn keep_best(run: &Path) -> Result<()> {
    let [best, kept] = [BEST, BEST_AT_CHECKPOINT].map(|name| run.join(name));
    // a copy where the file system has no hard links (FAT); one that is cut short is not used, as the first name still has it
    if best.exists() && !kept.exists() && fs::hard_link(&best, &kept).is_err() {
        fs::copy(&best, &kept).map_err(Error::io(&kept))?;
    }
    Ok(())
}

/// Gives the best classifier of `epochs`, those of the checkpoint, its first name again.
fn restore_best(
    run: &Path,
    epochs: &[EpochMetrics],
    observer: &mut dyn FinetuneObserver,
) -> Result<()> {
    let [best, kept] = [BEST, BEST_AT_CHECKPOINT].map(|name| run.join(name));
    if let Some(of) = best_of(epochs) {
        // what cannot be read is not it
        let card = |file: &Path| read_card(file).ok().flatten();
        let card = |file: &Path| card(file).filter(|card| card.step == of.step);
        let found = match (card(&best), card(&kept)) {
            (None, Some(card)) => {
                fs::rename(&kept, &best).map_err(Error::io(&best))?;
                sync_folder(run)?;
                Some(card)
            }
            (found, _) => found,
        };
        match found {
            // also where the run was killed between the two
            Some(card) => write_timm_folder(&best, &card)?,
            None => observer.note(&format!(
                "WARNING run {}: {BEST} is not the classifier of epoch {}, the best so far, but a later one, or none: an earlier \
                 version began the run, or the file was removed",
                printable(run),
                of.epoch
            )),
        }
    }
    remove(&kept)
}

/// Removes a file, if it is there.
fn remove(file: &Path) -> Result<()> {
    if_there(file, fs::remove_file(file))?;
    Ok(())
}

/// `metrics.jsonl` of these epochs.
fn lines(path: &Path, epochs: &[EpochMetrics]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    epochs
        .iter()
        .try_for_each(|epoch| append(&mut lines, path, epoch))?;
    Ok(lines)
}

/// Refuses a run with other settings, model or images, and names what differs; the backends where these differ.
fn same_run(path: &Path, before: &str, now: &str) -> Result<Option<[String; 2]>> {
    let changes = changes(&path.join(CONFIG), before, now)?;
    if changes.others.is_empty() {
        return Ok(changes.backend);
    }
    let others = changes.others.iter().map(|(key, [before, now])| {
        format!("\n  {key}: {} -> {}", printable(before), printable(now))
    });
    let others: String = others.collect();
    let reason = format!("holds another run:{others}\nchoose another folder with `out`");
    Err(Error::checkpoint(path, reason))
}

/// What there is to resume from.
fn find(
    path: &Path,
    store: &Store,
    wanted: usize,
    observer: &mut dyn FinetuneObserver,
) -> Result<Found> {
    let (mut epochs, damaged) = read_with_damage(&path.join(METRICS))?;
    let is_written = [BEST, LAST].iter().all(|name| path.join(name).exists());
    if are_first(&epochs, wanted) && is_written {
        observer.note(&format!("run {}: the run is complete", printable(path)));
        return Ok(Found::Complete(epochs));
    }
    let metrics = || {
        let damage = damage_in_words(&damaged).map(|damage| format!(" ({damage})"));
        let damage = damage.unwrap_or_default();
        format!("{METRICS} has {} of {wanted} epochs{damage}", epochs.len())
    };
    let (newest, skipped) = store.newest()?;
    for damaged in skipped {
        observer.note(&format!("skipped a damaged checkpoint: {}", damaged.error));
    }
    let Some(newest) = newest else {
        // the first checkpoint is written before the first classifier
        let work = work_in(path, store)?;
        if work.is_empty() {
            return Ok(Found::Nothing);
        }
        let reason = format!(
            "holds a run that can neither be resumed nor is complete: it has no checkpoint, and its {}, but it contains {}; \
             restore {METRICS} or the checkpoint from a copy, or choose another folder with `out`",
            metrics(),
            work.join(", ")
        );
        return Err(Error::checkpoint(path, reason));
    };
    let manifest = &newest.manifest;
    let (_, mut before) = place_of(manifest, path)?;
    if before.is_empty() && manifest.epoch > 0 {
        // of an earlier version, whose checkpoints need the file
        let reason = format!(
            "its {}, and its checkpoint needs the first {}; restore {METRICS} from a copy, or choose another folder with `out`",
            metrics(),
            manifest.epoch
        );
        epochs.truncate(manifest.epoch);
        if !are_first(&epochs, manifest.epoch) {
            return Err(Error::checkpoint(path, reason));
        }
        before = epochs;
    }
    observer.note(&format!(
        "run {}: resuming from step {}",
        printable(path),
        manifest.step
    ));
    Ok(Found::Checkpoint(Box::new(newest), before))
}

/// What a run in the folder has made, by name.
fn work_in(path: &Path, store: &Store) -> Result<Vec<&'static str>> {
    let file = path.join(METRICS);
    let is_begun = if_there(&file, fs::metadata(&file))?.is_some_and(|of| of.len() > 0);
    let mut work = vec![];
    work.extend((!store.steps()?.is_empty()).then_some("checkpoints"));
    work.extend(is_begun.then_some(METRICS));
    let classifiers = [BEST, LAST].into_iter();
    work.extend(classifiers.filter(|name| path.join(name).exists()));
    Ok(work)
}

fn used(path: &Path, mark: &str) -> Error {
    let reason = format!("holds another run ({mark}); choose another folder with `out`");
    Error::checkpoint(path, reason)
}
