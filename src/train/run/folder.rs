//! The folder of a run: settings, metrics, backbones, checkpoints.
//!
//! ```text
//! run.json                          what it was started with: RunRecord
//! config.toml                       its settings, to read and to repeat it
//! metrics.jsonl                     one line a step
//! evaluations.jsonl                 one line an evaluation
//! views.png                         the first images, and what the networks see of them
//! teacher.safetensors, student.safetensors
//! model.safetensors, config.json    the best or the last teacher for timm and transformers: files::model::write_timm_folder
//! best.safetensors                  the best teacher, with `keep_best`
//! checkpoints/step-000000120/       see files::checkpoint
//! tensorboard/, report/             of `ibot train --tensorboard` and `ibot report`
//! lock                              held by the process that trains
//! ```

use std::fmt::Display;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::files::checkpoint::{Checkpoint, Keep, Manifest, Saving, Store};
use crate::files::model::ModelCard;
use crate::train::config::RunConfig;
use crate::train::run::backbones::write_backbones;
use crate::train::run::best::remove_best;
use crate::train::run::evaluation::Evaluation;
use crate::train::run::image_changes::changed_images;
use crate::train::run::lines::{append, has_line, keep_lines};
use crate::train::run::lock::RunLock;
use crate::train::run::metrics::StepMetrics;
use crate::train::run::observer::Observer;
use crate::train::run::options::StartWeights;
use crate::train::run::record::{AllowedChanges, RunRecord};
use crate::train::run::work::{EVALUATIONS, METRICS, missing_folders, refuse_dangling, work_in};
use crate::train::trainer::{Tensors, backbones};
use crate::unfinished::write_whole;

const CONFIG: &str = "config.toml";

/// The folder of a run, locked for this process.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    metrics: Option<File>,
    store: Store,
    saving: Saving,
    /// Which checkpoints the next write keeps.
    pub keep: Keep,
    /// The run found in the folder.
    before: Option<RunRecord>,
    /// The new run, until its record says that it has a checkpoint.
    unmarked: Option<RunRecord>,
    lock: Option<RunLock>,
    /// Folders that were created for it, the innermost first.
    made: Vec<PathBuf>,
}

impl RunFolder {
    /// Creates the folder if it is missing, and locks it; warns if the file system has no locks.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if another process trains in it, or its checkpoints are behind a broken link;
    /// [`Error::Io`] if it cannot be written.
    pub fn open(path: &Path, keep: Keep, observer: &mut dyn Observer) -> Result<Self> {
        let mut folder = Self::read_only(path);
        refuse_dangling(path)?;
        refuse_dangling(folder.store.folder())?;
        (folder.keep, folder.made) = (keep, missing_folders(path));
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let lock = folder.lock.insert(RunLock::take(path)?);
        if !lock.keeps_out() {
            observer.note(&format!(
                "WARNING {}: this file system has no locks; make sure that no other process trains in this folder",
                printable(path)
            ));
        }
        Ok(folder)
    }

    /// The folder that another rank has opened: to be read alone.
    pub(super) fn read_only(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            metrics: None,
            store: Store::of_run(path),
            saving: Saving::default(),
            keep: Keep::default(),
            before: None,
            unmarked: None,
            lock: None,
            made: Vec::new(),
        }
    }

    /// The number of ranks that the run in the folder was last trained by.
    pub(super) fn ranks_before(&self) -> Option<usize> {
        self.before.as_ref().map(|before| before.ranks)
    }

    /// The checkpoint of a step.
    ///
    /// # Errors
    /// Those of [`Store::found_by_another`].
    pub(super) fn checkpoint_of(&self, step: usize) -> Result<Checkpoint> {
        self.store.found_by_another(step)
    }

    /// The weights that the run in the folder started from.
    pub(super) fn started_from(&self) -> Option<StartWeights> {
        self.before.as_ref()?.pretrained.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its newest good checkpoint, if `record` resumes its run; reports the damaged ones that it skips.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the run was started with other settings, or has files to lose but no checkpoint, unless
    /// it may differ, which is reported instead; or if all of its checkpoints are damaged.
    pub fn continued(
        &mut self,
        record: &RunRecord,
        allowed: AllowedChanges,
        observer: &mut dyn Observer,
    ) -> Result<Option<Checkpoint>> {
        let Some(before) = RunRecord::read(&self.path)? else {
            self.check_restart("it has no run.json", allowed, observer)?;
            return Ok(None);
        };
        let mut changes = record.setting_changes(&before, &self.path)?;
        changes.retain(|change| allowed != AllowedChanges::Backend || !change.is_backend());
        self.refuse_changes("settings", &changes, allowed, observer)?;
        let (newest, damaged) = self.store.newest()?;
        for damaged in damaged {
            observer.note(&format!("skipped a damaged checkpoint: {}", damaged.error));
        }
        if newest.is_none() && before.has_checkpoint {
            self.check_restart("its checkpoints are gone", allowed, observer)?;
            return Ok(None);
        }
        let from = newest.as_ref().map_or_else(
            || "the beginning: it has no checkpoint yet".to_owned(),
            |newest| format!("step {}", newest.manifest.step),
        );
        observer.note(&format!(
            "run {}: resuming from {from}",
            printable(&self.path)
        ));
        self.before = Some(before);
        Ok(newest)
    }

    /// Checks that a run that resumes has the images that it began with; reports others, where they may differ.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the run was started with other images than those of `record`, unless all may differ.
    pub fn same_images(
        &self,
        record: &RunRecord,
        allowed: AllowedChanges,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let (what, changes) = changed_images(before, record);
        self.refuse_changes(what, &changes, allowed, observer)
    }

    fn refuse_changes(
        &self,
        what: &str,
        changes: &[impl Display],
        allowed: AllowedChanges,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let list = changes.iter().map(|change| format!("\n  {change}"));
        let list: String = list.collect();
        if allowed != AllowedChanges::All {
            let reason = format!(
                "holds a run with other {what}:{list}\nchoose another folder with `out`, or resume by `allow_changes`"
            );
            return Err(Error::checkpoint(&self.path, reason));
        }
        observer.note(&format!(
            "`allow_changes`: the run resumes with other {what}:{list}"
        ));
        Ok(())
    }

    /// Refuses to start over in a folder with work of a run that cannot be resumed; says so where that is allowed.
    fn check_restart(
        &self,
        missing: &str,
        allowed: AllowedChanges,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let work = work_in(&self.path)?;
        if work.is_empty() {
            return Ok(());
        }
        if allowed != AllowedChanges::All {
            let reason = format!(
                "holds a run that cannot be resumed: {missing}, but it contains {work}; choose another folder \
                 with `out`, or replace the run by `allow_changes`"
            );
            return Err(Error::checkpoint(&self.path, reason));
        }
        observer.note(&format!(
            "`allow_changes`: run {}: starting over because {missing}; this replaces {work}",
            printable(&self.path)
        ));
        Ok(())
    }

    /// Writes the record of the run, and removes what was written after the checkpoint of step `newest`, or everything.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(
        &mut self,
        mut record: RunRecord,
        config: &RunConfig,
        newest: Option<usize>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        // before the new settings are written: old checkpoints must not be taken for theirs
        self.forget_checkpoints(newest)?;
        if newest.is_none() {
            remove_best(&self.path)?;
        }
        let text = config.to_toml()?;
        let comments = format!(
            "# ibot {}\n# data {}\n# backend {}\n",
            record.ibot,
            record.first_data(),
            record.backend
        );
        write_whole(&self.path.join(CONFIG), (comments + &text).as_bytes())?;
        record.has_checkpoint = newest.is_some();
        record.write(&self.path)?;
        self.unmarked = Some(record).filter(|record| !record.has_checkpoint);
        self.forget_lines(newest, observer)
    }

    /// Goes back to a checkpoint, which takes this manifest; removes checkpoints and metrics after it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn go_back(&mut self, to: &Manifest, observer: &mut dyn Observer) -> Result<()> {
        self.saving.finish()?;
        self.store.go_back(to)?;
        self.forget_lines(Some(to.step), observer)
    }

    fn forget_checkpoints(&mut self, after: Option<usize>) -> Result<()> {
        self.saving.finish()?;
        self.store.remove_temporary()?;
        self.store.remove_after(after)
    }

    /// All lines where `after` is none.
    fn forget_lines(&mut self, after: Option<usize>, observer: &mut dyn Observer) -> Result<()> {
        let stays = |step| after.is_some_and(|after| step <= after);
        let (_, evaluations) = keep_lines(&self.path.join(EVALUATIONS), stays)?;
        let (file, metrics) = keep_lines(&self.path.join(METRICS), stays)?;
        self.metrics = Some(file);
        let damaged = [evaluations, metrics];
        damaged
            .iter()
            .flatten()
            .for_each(|line| observer.note(line));
        Ok(())
    }

    /// Appends one line to `evaluations.jsonl`; replaces one of the same step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log_evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let path = self.path.join(EVALUATIONS);
        let (mut file, _) = keep_lines(&path, |of| of < evaluation.step)?;
        append(&mut file, &path, evaluation)?;
        // a best teacher that outlives its line in a power cut would be compared with nothing
        file.sync_data().map_err(Error::io(&path))
    }

    /// Whether `evaluations.jsonl` has a line of a step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_evaluation(&self, step: usize) -> Result<bool> {
        has_line(&self.path.join(EVALUATIONS), step)
    }

    /// Writes the k-NN accuracy into the newest checkpoint, that of `step`, and removes checkpoints that need not be kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn score(&mut self, step: usize, knn: f64) -> Result<()> {
        self.saving.finish()?;
        self.store.score(step, knn, self.keep)
    }

    /// Appends one line to `metrics.jsonl`, and returns errors of background writes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.saving.check()?;
        let path = self.path.join(METRICS);
        let file = self.metrics.as_mut();
        let file =
            file.ok_or_else(|| Error::checkpoint(&path, "is not open: no run was started"))?;
        append(file, &path, metrics)
    }

    /// Writes a checkpoint and both backbones in the background.
    ///
    /// # Errors
    /// The error of the write before it.
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
        let unmarked = self.unmarked.take();
        self.saving.start(move || {
            let backbones = backbones(&tensors);
            store.write(&Checkpoint { manifest, tensors }, keep)?;
            if let Some(mut record) = unmarked {
                record.has_checkpoint = true;
                record.write(&path)?;
            }
            write_backbones(&path, &backbones, &cards)
        })
    }

    /// Writes the backbones of student and teacher in the background.
    ///
    /// # Errors
    /// The error of the write before it.
    pub fn export(&mut self, backbones: [Tensors; 2], cards: [ModelCard; 2]) -> Result<()> {
        let path = self.path.clone();
        self.saving
            .start(move || write_backbones(&path, &backbones, &cards))
    }

    /// The newest good checkpoint of a step up to `last`.
    ///
    /// # Errors
    /// As [`Store::newest`].
    pub fn newest_up_to(&mut self, last: usize) -> Result<Option<Checkpoint>> {
        self.saving.finish()?;
        Ok(self.store.newest_up_to(last)?.0)
    }

    /// Waits for background writes.
    ///
    /// # Errors
    /// The error of the write.
    pub fn finish(&mut self) -> Result<()> {
        self.saving.finish()
    }
}

impl Drop for RunFolder {
    /// A folder in which no run was started is left as it was found.
    fn drop(&mut self) {
        let _ = self.saving.finish();
        let is_run =
            self.metrics.is_some() || matches!(RunRecord::read(&self.path), Ok(Some(_)) | Err(_));
        if is_run {
            return;
        }
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
        for folder in &self.made {
            let _ = fs::remove_dir(folder); // fails, as it should, unless it is empty
        }
    }
}
