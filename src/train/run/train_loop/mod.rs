//! The training loop: steps, metrics, health, checkpoints, rollbacks and errors.
//!
//! - `stepping`: one step, and when its metrics are read
//! - `deciding`: what the ranks of a run decide together
//! - `keeping`: checkpoints and evaluations after a step
//! - `rollback`: where a run that collapses or diverges goes back to

mod deciding;
mod keeping;
mod rollback;
mod stepping;

pub(super) use keeping::DueEvaluation;

use burn::module::Module as _;

use crate::backbone::TrainBackbone;
use crate::collective::all_ok;
use crate::data::Loader;
use crate::error::{Error, Result, counted, printable};
use crate::files::checkpoint::Manifest;
use crate::kernels::TrainBackend;
use crate::train::config::RunConfig;
use crate::train::health::{Anomaly, HealthMonitor, OnAnomaly};
use crate::train::optim::Schedule;
use crate::train::run::best::{Comparison, Measure};
use crate::train::run::evaluation::RunImages;
use crate::train::run::folder::RunFolder;
use crate::train::run::interval::Due;
use crate::train::run::metrics_window::MetricsWindow;
use crate::train::run::observer::{Observer, RunStart};
use crate::train::run::record::RunRecord;
use crate::train::run::setup::{RunSetup, schedule};
use crate::train::trainer::{StepInput, Trainer};

/// A run between its first step and its last.
pub(super) struct TrainLoop<'a, B: TrainBackend, M: TrainBackbone<B>> {
    trainer: Trainer<B, M>,
    setup: &'a RunSetup<'a>,
    config: RunConfig,
    pub schedule: Schedule,
    folder: RunFolder,
    loader: Loader,
    /// The batch of the next step, where it was sent to the device before that step.
    ahead: Option<Result<StepInput<B>>>,
    images: RunImages,
    /// Steps done.
    step: usize,
    window: MetricsWindow,
    monitor: HealthMonitor,
    reported: Vec<Anomaly>,
    due: Due,
    learning_rate_factor: f64,
    rollbacks: usize,
    /// Accuracy of k-NN at this step.
    knn: Option<f64>,
    /// Step of the newest checkpoint.
    saved: Option<usize>,
    /// Whether this rank failed where others wait for it, so that they agree on nothing any more.
    has_parted: bool,
    /// Whether the run started from trained weights.
    pub is_trained_at_start: bool,
}

impl<'a, B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'a, B, M> {
    /// From the beginning or from a checkpoint, with the health monitor of that or a new one.
    pub fn new(
        setup: &'a RunSetup<'a>,
        trainer: Trainer<B, M>,
        config: RunConfig,
        folder: RunFolder,
        loader: Loader,
        images: RunImages,
        (from, monitor): (Option<&Manifest>, HealthMonitor),
    ) -> Self {
        let step = from.map_or(0, |from| from.step);
        Self {
            trainer,
            monitor,
            due: Due::after(setup.request.checkpoint_every, step),
            schedule: schedule(&config, loader.batches_per_epoch()),
            setup,
            config,
            folder,
            loader,
            ahead: None,
            images,
            step,
            window: MetricsWindow::new(),
            reported: Vec::new(),
            learning_rate_factor: from.map_or(1.0, |from| from.learning_rate_factor),
            rollbacks: from.map_or(0, |from| from.rollbacks),
            knn: None,
            saved: from.map(|from| from.step),
            has_parted: false,
            is_trained_at_start: false,
        }
    }

    /// What the run starts with, on so many examples.
    pub fn start(&self, images: usize) -> RunStart {
        RunStart {
            steps: self.schedule.steps,
            start_step: self.step,
            epochs: self.schedule.epochs(),
            steps_per_epoch: self.schedule.steps_per_epoch,
            images,
            parameters: self.trainer.method.student.num_params(),
            out: self.setup.request.out.clone(),
        }
    }

    /// Whether no checkpoint was written.
    pub fn is_new(&self) -> bool {
        self.saved.is_none()
    }

    /// Whether teachers are compared with each other.
    pub fn compares_teachers(&self) -> bool {
        self.config.keep_best || self.images.val.is_some()
    }

    /// How they are compared.
    fn comparison(&self) -> Comparison {
        Comparison {
            measure: match self.images.val {
                Some(_) => Measure::Knn,
                None => Measure::RankMe,
            },
            is_trained_at_start: self.is_trained_at_start,
        }
    }

    /// Runs all remaining steps, and evaluates the final teacher.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let is_first = self.is_first();
        self.keep_start(observer)?;
        while self.step < self.schedule.steps {
            let (read, sound) = self.one_step();
            // logged before errors are handled: these steps were sound, even if the one after them was not
            for metrics in read.iter().filter(|_| is_first) {
                self.folder
                    .log(metrics)
                    .map_err(|error| self.unwritten(error))?;
                observer.step(metrics);
            }
            self.note_skipped(observer);
            match sound {
                Ok(()) => {}
                // `stop` also ends a wait for images
                Err(Error::Stopped) => return Err(self.interrupted(observer)),
                Err(error @ Error::NotFinite { .. }) if self.may_roll_back() => {
                    self.roll_back(error, observer)?;
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            }
            let Some(metrics) = read.last() else {
                continue; // nothing is due before the next read of metrics
            };
            if metrics.health.is_some() {
                // reported once, when it first appears, and not at each check
                let news = metrics
                    .anomalies
                    .iter()
                    .any(|anomaly| !self.reported.contains(anomaly));
                if news {
                    observer.anomalies(self.step, &metrics.anomalies);
                }
                self.reported.clone_from(&metrics.anomalies);
            }
            if let Some(anomaly) = metrics.anomalies.first() {
                let error = Error::Training(format!("the run collapsed or diverged: {anomaly}"));
                match self.setup.request.on_anomaly {
                    OnAnomaly::Rollback if self.may_roll_back() => {
                        self.roll_back(error, observer)?;
                        continue;
                    }
                    OnAnomaly::Rollback | OnAnomaly::Stop => return Err(self.failed(error)),
                    OnAnomaly::Warn => {}
                }
            }
            self.after_step(observer)?;
        }
        self.folder.finish().map_err(|error| self.unwritten(error))
    }

    /// The error of the step after this one, with the path of the last good state, which is written now unless the device
    /// failed and its numbers cannot be trusted, or that step's loss is not finite.
    fn failed(&mut self, error: Error) -> Error {
        self.failed_in(&format!("step {}", self.step + 1), error)
    }

    /// The error of the evaluation after this step, likewise.
    fn not_evaluated(&mut self, error: Error) -> Error {
        match self.step {
            0 => error, // nothing is lost
            step => self.failed_in(&format!("evaluation after step {step}"), error),
        }
    }

    fn failed_in(&mut self, what: &str, error: Error) -> Error {
        if let Error::Device(reason) = error {
            return Error::Device(format!(
                "{reason}; steps after the newest checkpoint are lost; run the same command again to resume from it"
            ));
        }
        let kind = match error {
            Error::Ranks(_) => Error::Ranks,
            _ => Error::Training,
        };
        if self.has_parted {
            return kind(format!(
                "{what}: {error}; run the same command again to resume from the newest checkpoint"
            ));
        }
        let left = match &error {
            Error::NotFinite { what: term, .. } => {
                self.left_by_divergence(format!("{what}: {term}"))
            }
            _ => self.left(),
        };
        let left = left.unwrap_or_else(|error| format!("the state could not be written: {error}"));
        kind(format!("{what}: {error}; {left}"))
    }

    /// Writes the state; says where it is.
    fn left(&mut self) -> Result<String> {
        if self.saved != Some(self.step) {
            self.checkpoint()?;
        }
        self.written()?;
        let (step, path) = (self.step, printable(self.folder.path()));
        Ok(format!("the state after step {step} is in {path}"))
    }

    /// Says where to go on from. The state is not written: its next loss is not finite whatever the learning rate, and it would
    /// take the place of a checkpoint from before that.
    fn left_by_divergence(&mut self, failure: String) -> Result<String> {
        let exported = match self.saved {
            Some(_) => Ok(()),
            None => self.export(), // to look at
        };
        all_ok(self.ranks(), exported)?;
        let noted = self.note_failure(failure);
        all_ok(self.ranks(), noted)?;
        let path = printable(self.folder.path());
        let (left, from) = match self.saved {
            Some(saved) => {
                let left = format!("the newest checkpoint in {path} is that of step {saved}");
                (left, "a checkpoint from before it")
            }
            None => {
                let step = self.step;
                let left =
                    format!("the weights after step {step} are in {path}, without a checkpoint");
                (left, "the start")
            }
        };
        Ok(if self.rolls_back() {
            left
        } else {
            format!("{left}; `on_anomaly` rollback goes on from {from} with half the learning rate")
        })
    }

    /// Keeps in the record why the run ended, for reports, once everything else is written.
    fn note_failure(&mut self, failure: String) -> Result<()> {
        self.folder.finish()?;
        let record = RunRecord::read(self.folder.path())?;
        if let Some(record) = record.filter(|_| self.is_first()) {
            let failure = Some(failure);
            RunRecord { failure, ..record }.write(self.folder.path())?;
        }
        Ok(())
    }

    /// Saves the state of a stopped run, and returns its error.
    fn interrupted(&mut self, observer: &mut dyn Observer) -> Error {
        // step 0 can be computed again from the seed; a saved step need not be written twice
        if self.step > 0 && self.saved != Some(self.step) {
            if let Err(error) = self.checkpoint() {
                return error;
            }
            observer.checkpoint(self.step);
        }
        match self.written() {
            Ok(()) => Error::Interrupted {
                step: self.step,
                run: self.folder.path().to_path_buf(),
            },
            Err(error) => self.unwritten(error),
        }
    }

    /// Waits until rank 0 has written, on all ranks: one that ended would have a launcher end it meanwhile.
    fn written(&mut self) -> Result<()> {
        let written = self.folder.finish();
        all_ok(self.ranks(), written)
    }

    /// Adds the remedy to an error of the disk.
    fn unwritten(&self, error: Error) -> Error {
        if let Error::Ranks(reason) = error {
            let step = self.step;
            let remedy = "run the same command again to resume from the newest checkpoint";
            return Error::Ranks(format!("step {step}: {reason}; {remedy}"));
        }
        Error::Training(format!(
            "step {}: {error}; earlier files are intact; once the disk is writable, run the same command again to resume",
            self.step
        ))
    }

    /// Reports what is known only at the end of a run.
    pub fn finish(self, observer: &mut dyn Observer) -> Result<()> {
        if self.loader.skipped() > 0 {
            let skipped = self.loader.skipped();
            observer.note(&format!(
                "{} could not be decoded",
                counted(skipped, "image")
            ));
        }
        if self.config.keep_best
            && self.is_first()
            && let Some(gain) = self.comparison().gain(self.folder.path())?
        {
            observer.note(&gain);
        }
        observer.finished(self.folder.path());
        Ok(())
    }

    fn note_skipped(&self, observer: &mut dyn Observer) {
        for (path, reason) in self.loader.take_skipped() {
            observer.note(&format!("skipped {}: {reason}", printable(path)));
        }
    }
}
