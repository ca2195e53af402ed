//! The loop over the steps: metrics, health, checkpoints, and what to do when something goes wrong.
//!
//! - `stepping`: one step, and when its metrics are read
//! - `keeping`: what is written and evaluated after a step

mod keeping;
mod stepping;

pub(super) use keeping::DueEvaluation;

use crate::backbone::TrainBackbone;
use crate::data::Loader;
use crate::error::{Error, Result, printable};
use crate::files::checkpoint::Manifest;
use crate::kernels::TrainBackend;
use crate::train::config::RunConfig;
use crate::train::health::{HealthMonitor, OnSick, Sickness};
use crate::train::optim::Schedule;
use crate::train::run::evaluation::Pictures;
use crate::train::run::every::Due;
use crate::train::run::folder::RunFolder;
use crate::train::run::interval::Interval;
use crate::train::run::observer::Observer;
use crate::train::run::setup::RunSetup;
use crate::train::trainer::Trainer;

/// What a rollback multiplies the learning rate by.
const ROLLBACK_FACTOR: f64 = 0.5;
/// Rollbacks after which a run is given up.
const MAX_ROLLBACKS: usize = 3;

/// A run between its first step and its last.
pub(super) struct TrainLoop<'a, B: TrainBackend, M: TrainBackbone<B>> {
    trainer: Trainer<B, M>,
    setup: &'a RunSetup<'a>,
    config: RunConfig,
    pub schedule: Schedule,
    folder: RunFolder,
    loader: Loader,
    pictures: Pictures,
    /// Steps made.
    step: usize,
    interval: Interval,
    monitor: HealthMonitor,
    told: Vec<Sickness>,
    due: Due,
    learning_rate_factor: f64,
    rollbacks: usize,
    /// Accuracy of k-NN at this step.
    knn: Option<f64>,
    /// Step of the newest checkpoint.
    saved: Option<usize>,
}

impl<'a, B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'a, B, M> {
    /// From the beginning, or where a checkpoint was written.
    pub fn new(
        setup: &'a RunSetup<'a>,
        trainer: Trainer<B, M>,
        config: RunConfig,
        folder: RunFolder,
        loader: Loader,
        pictures: Pictures,
        from: Option<&Manifest>,
    ) -> Self {
        let step = from.map_or(0, |from| from.step);
        Self {
            trainer,
            monitor: from
                .and_then(|from| serde_json::from_value(from.health.clone()).ok())
                .unwrap_or_else(|| HealthMonitor::new(config.method.prototypes())),
            due: Due::after(setup.request.checkpoint_every, step),
            schedule: setup.schedule(&config, loader.batches_per_epoch()),
            setup,
            config,
            folder,
            loader,
            pictures,
            step,
            interval: Interval::new(),
            told: Vec::new(),
            learning_rate_factor: from.map_or(1.0, |from| from.learning_rate_factor),
            rollbacks: from.map_or(0, |from| from.rollbacks),
            knn: None,
            saved: from.map(|from| from.step),
        }
    }

    /// Whether no checkpoint was written.
    pub fn is_new(&self) -> bool {
        self.saved.is_none()
    }

    /// Whether there are pictures to evaluate on that are not trained on.
    pub fn has_val(&self) -> bool {
        self.pictures.val.is_some()
    }

    /// All steps that are left, and what the last one's teacher is worth.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        while self.step < self.schedule.steps {
            let (read, sound) = self.one_step();
            for metrics in &read {
                self.folder
                    .log(metrics)
                    .map_err(|error| self.unwritten(error))?;
                observer.step(metrics);
            }
            self.note_skipped(observer);
            match sound {
                Ok(()) => {}
                // it would have waited for pictures
                Err(Error::Stopped) => return Err(self.interrupted(observer)),
                Err(error @ Error::NotFinite { .. }) if self.may_roll_back() => {
                    self.roll_back(&error.to_string(), observer)?;
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            }
            let Some(metrics) = read.last() else {
                continue; // nothing is due before the next reading
            };
            if metrics.health.is_some() {
                let news = metrics.sick.iter().any(|sick| !self.told.contains(sick));
                if news {
                    observer.sick(self.step, &metrics.sick);
                }
                self.told.clone_from(&metrics.sick);
            }
            if let Some(sick) = metrics.sick.first() {
                match self.setup.request.on_sick {
                    OnSick::Rollback if self.may_roll_back() => {
                        self.roll_back(&sick.to_string(), observer)?;
                        continue;
                    }
                    OnSick::Rollback | OnSick::Stop => {
                        let error = Error::Training(format!("the run is sick: {sick}"));
                        return Err(self.failed(error));
                    }
                    OnSick::Warn => {}
                }
            }
            self.keep(observer)?;
        }
        self.folder.finish().map_err(|error| self.unwritten(error))
    }

    fn may_roll_back(&self) -> bool {
        self.setup.request.on_sick == OnSick::Rollback && self.rollbacks < MAX_ROLLBACKS
    }

    /// The state of the newest checkpoint, with a lower learning rate from there on.
    fn roll_back(&mut self, reason: &str, observer: &mut dyn Observer) -> Result<()> {
        let Some(newest) = self.folder.newest()? else {
            let reason = format!("{reason}; there is no checkpoint yet to go back to");
            return Err(self.failed(Error::Training(reason)));
        };
        let (from, to) = (self.step, newest.manifest.step);
        self.trainer
            .restore(to, newest.tensors, self.folder.path())?;
        self.step = to;
        self.knn = newest.manifest.knn;
        self.rollbacks += 1;
        self.learning_rate_factor *= ROLLBACK_FACTOR;
        observer.note(&format!(
            "step {from}: {reason}; back to step {to} with {} of the learning rate (rollback {} of {MAX_ROLLBACKS})",
            self.learning_rate_factor, self.rollbacks
        ));
        self.loader = self.setup.loader(&self.config, &self.pictures.train, to)?;
        self.monitor = HealthMonitor::new(self.config.method.prototypes());
        self.told.clear();
        self.folder.rewind(to, observer)?;
        observer.rolled_back(to);
        self.checkpoint()?; // it knows of the rollback
        observer.checkpoint(to);
        Ok(())
    }

    /// The error of the step after this one, with where the last good state is: it is written now, unless the device
    /// failed and its numbers are not to be trusted.
    fn failed(&mut self, error: Error) -> Error {
        if let Error::Device(reason) = error {
            return Error::Device(format!(
                "{reason}; nothing is kept of what came after the newest checkpoint: the same command goes on from it"
            ));
        }
        let step = self.step;
        let written = self.checkpoint().and_then(|()| self.folder.finish());
        let state = match written {
            Ok(()) => {
                let path = printable(self.folder.path());
                format!("the state after step {step} is in {path}")
            }
            Err(error) => format!("the state could not be written: {error}"),
        };
        Error::Training(format!("step {}: {error}; {state}", step + 1))
    }

    /// The error of a run that was stopped, once its state is written, wherever it was stopped.
    fn interrupted(&mut self, observer: &mut dyn Observer) -> Error {
        if self.step > 0 && self.saved != Some(self.step) {
            if let Err(error) = self.checkpoint() {
                return error;
            }
            observer.checkpoint(self.step);
        }
        match self.folder.finish() {
            Ok(()) => Error::Interrupted {
                step: self.step,
                run: self.folder.path().to_path_buf(),
            },
            Err(error) => self.unwritten(error),
        }
    }

    /// What to do after an error of the disk.
    fn unwritten(&self, error: Error) -> Error {
        Error::Training(format!(
            "step {}: {error}; what was written before is whole: once it can be written again, the same command goes on from the newest checkpoint",
            self.step
        ))
    }

    /// Says what a whole run has to say.
    pub fn end(self, observer: &mut dyn Observer) -> Result<()> {
        if self.loader.skipped() > 0 {
            let skipped = self.loader.skipped();
            observer.note(&format!("{skipped} pictures could not be decoded"));
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
