//! The training loop: steps, metrics, health, checkpoints, rollbacks and errors.
//!
//! - `stepping`: one step, and when its metrics are read
//! - `deciding`: what the ranks of a run decide together
//! - `keeping`: checkpoints and evaluations after a step

mod deciding;
mod keeping;
mod stepping;

pub(super) use keeping::DueEvaluation;

use crate::backbone::TrainBackbone;
use crate::collective::all_ok;
use crate::data::Loader;
use crate::error::{Error, Result, counted, printable};
use crate::files::checkpoint::Manifest;
use crate::kernels::TrainBackend;
use crate::train::config::RunConfig;
use crate::train::health::{Anomaly, HealthMonitor, OnAnomaly};
use crate::train::optim::Schedule;
use crate::train::run::best::Measure;
use crate::train::run::evaluation::RunImages;
use crate::train::run::folder::RunFolder;
use crate::train::run::interval::Due;
use crate::train::run::metrics_window::MetricsWindow;
use crate::train::run::observer::Observer;
use crate::train::run::setup::{RunSetup, loader, schedule};
use crate::train::run::together::found_by_rank_0;
use crate::train::trainer::{StepInput, Trainer};

/// Factor of the learning rate at a rollback.
const ROLLBACK_FACTOR: f64 = 0.5;
/// Maximum number of rollbacks of a run.
const MAX_ROLLBACKS: usize = 3;

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

    /// What they are compared by.
    fn measure(&self) -> Measure {
        match self.images.val {
            Some(_) => Measure::Knn,
            None => Measure::RankMe,
        }
    }

    /// Runs all remaining steps, and evaluates the final teacher.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let is_first = self.is_first();
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
                    self.roll_back(&error.to_string(), observer)?;
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
                match self.setup.request.on_anomaly {
                    OnAnomaly::Rollback if self.may_roll_back() => {
                        self.roll_back(&anomaly.to_string(), observer)?;
                        continue;
                    }
                    OnAnomaly::Rollback | OnAnomaly::Stop => {
                        let error =
                            Error::Training(format!("the run collapsed or diverged: {anomaly}"));
                        return Err(self.failed(error));
                    }
                    OnAnomaly::Warn => {}
                }
            }
            self.after_step(observer)?;
        }
        self.folder.finish().map_err(|error| self.unwritten(error))
    }

    fn may_roll_back(&self) -> bool {
        self.setup.request.on_anomaly == OnAnomaly::Rollback && self.rollbacks < MAX_ROLLBACKS
    }

    /// Goes back to the newest checkpoint, with a lower learning rate from there on.
    fn roll_back(&mut self, reason: &str, observer: &mut dyn Observer) -> Result<()> {
        let ranks = &*self.setup.request.collective;
        let newest = found_by_rank_0(&mut self.folder, ranks, RunFolder::newest)?;
        let Some(newest) = newest else {
            let reason = format!("{reason}; there is no checkpoint yet to roll back to");
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
        // those at hand are batches of later steps
        self.ahead = None;
        self.loader = loader(&self.config, self.images.train.clone(), to, ranks)?;
        // the findings of the discarded steps must not count towards the next rollback
        self.monitor = HealthMonitor::new(self.config.method.prototypes());
        self.reported.clear();
        let rewound = match self.is_first() {
            true => self.folder.rewind(to, observer),
            false => Ok(()),
        };
        all_ok(ranks, rewound)?;
        observer.rolled_back(to);
        self.checkpoint()?; // so that a resumed run keeps the lower learning rate
        observer.checkpoint(to);
        Ok(())
    }

    /// The error of the step after this one, with the path of the last good state, which is written now unless the device
    /// failed and its numbers cannot be trusted.
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
        let step = self.step;
        let kind = match error {
            Error::Ranks(_) => Error::Ranks,
            _ => Error::Training,
        };
        if self.has_parted {
            return kind(format!(
                "{what}: {error}; run the same command again to resume from the newest checkpoint"
            ));
        }
        let written = match self.saved == Some(step) {
            true => Ok(()),
            false => self.checkpoint(),
        };
        let written = written.and_then(|()| self.written());
        let state = match written {
            Ok(()) => {
                let path = printable(self.folder.path());
                format!("the state after step {step} is in {path}")
            }
            Err(error) => format!("the state could not be written: {error}"),
        };
        kind(format!("{what}: {error}; {state}"))
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
            && let Some(gain) = self.measure().gain(self.folder.path())?
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
