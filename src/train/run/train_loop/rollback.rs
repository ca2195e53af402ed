//! Rollbacks: a run that collapses or diverges goes on from a checkpoint from before that, with a lower learning rate.
//!
//! That is the newest one that a health check without a finding has followed, or else the newest one before the failure. A run
//! that may roll back keeps it, and begins with a checkpoint of its start.

use crate::backbone::TrainBackbone;
use crate::collective::all_ok;
use crate::error::{Error, Result, printable};
use crate::files::checkpoint::Checkpoint;
use crate::kernels::TrainBackend;
use crate::train::health::{HealthMonitor, OnAnomaly};
use crate::train::run::best::{BEST, best_teacher, set_best_aside};
use crate::train::run::observer::Observer;
use crate::train::run::setup::loader;
use crate::train::run::together::found_by_rank_0;
use crate::train::run::train_loop::TrainLoop;

/// Factor of the learning rate at a rollback.
const FACTOR: f64 = 0.5;
/// Maximum number of rollbacks of a run.
const MAX_ROLLBACKS: usize = 3;

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    pub(super) fn rolls_back(&self) -> bool {
        self.setup.request.on_anomaly == OnAnomaly::Rollback
    }

    pub(super) fn may_roll_back(&self) -> bool {
        self.rolls_back() && self.rollbacks < MAX_ROLLBACKS
    }

    /// Writes a checkpoint before the first step of a run that may roll back: it may diverge before the next one.
    pub(super) fn keep_start(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.rolls_back() && self.is_new() {
            self.checkpoint()?;
            observer.checkpoint(self.step);
        }
        Ok(())
    }

    /// The step up to which a checkpoint is to be kept for a rollback.
    pub(super) fn kept_for_rollback(&self) -> Option<usize> {
        self.last_sound().filter(|_| self.rolls_back())
    }

    /// The last step that is known to be sound; none before the first step. The state after the newest one is not: its loss,
    /// of the next step, is not known yet, or not finite.
    fn last_sound(&self) -> Option<usize> {
        let healthy = self
            .monitor
            .last_healthy(self.step, self.config.health_every);
        Some(healthy.min(self.step.checked_sub(1)?))
    }

    /// The checkpoint from before the failure of the next step, or of this one's health; none if there is none.
    fn checkpoint_before(&mut self) -> Result<Option<Checkpoint>> {
        let Some(sound) = self.last_sound() else {
            return Ok(None);
        };
        let (before, ranks) = (self.step - 1, &*self.setup.request.collective);
        // rank 0 alone looks at the run's health
        found_by_rank_0(&mut self.folder, ranks, |folder| {
            match folder.newest_up_to(sound) {
                // none, or all of them are damaged
                Ok(None) | Err(Error::Checkpoint { .. }) => folder.newest_up_to(before),
                found => found,
            }
        })
    }

    /// Goes back, with a lower learning rate from there on.
    ///
    /// # Errors
    /// `why`, if there is no checkpoint to go back to; a disk or device that fails.
    pub(super) fn roll_back(&mut self, why: Error, observer: &mut dyn Observer) -> Result<()> {
        let Some(Checkpoint { manifest, tensors }) = self.checkpoint_before()? else {
            return Err(self.failed(without_target(why)));
        };
        let ranks = &*self.setup.request.collective;
        let (from, to) = (self.step, manifest.step);
        self.trainer.restore(to, tensors, self.folder.path())?;
        self.step = to;
        self.knn = manifest.knn;
        self.rollbacks += 1;
        self.learning_rate_factor *= FACTOR;
        observer.note(&format!(
            "step {from}: {why}; back to step {to} with {} of the learning rate (rollback {} of {MAX_ROLLBACKS})",
            self.learning_rate_factor, self.rollbacks
        ));
        // those at hand are batches of later steps
        self.ahead = None;
        self.loader = loader(&self.config, self.images.train.clone(), to, ranks)?;
        // the findings of the discarded steps must not count towards the next rollback
        self.monitor = HealthMonitor::new(self.config.method.prototypes());
        self.reported.clear();
        let written = if self.is_first() {
            self.write_rollback(observer)
        } else {
            Ok(())
        };
        all_ok(ranks, written)?;
        self.due.done(to);
        self.saved = Some(to);
        observer.rolled_back(to);
        self.export()
    }

    /// Brings the folder to this step. The checkpoint gets a new manifest, so that a resumed run keeps the lower learning rate;
    /// its tensors stay where they are, and a crash at any time leaves them.
    fn write_rollback(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let manifest = self.manifest()?;
        // what it is compared by is about to be removed
        let (folder, why) = (self.folder.path(), "rollback");
        set_best_aside(folder, Some(self.step), why, observer)?;
        self.keep_restored(observer)?;
        self.folder.go_back(&manifest, observer)
    }

    /// Keeps the teacher that the run went back to as the best one, where the best one was of a discarded step. Later ones are then
    /// compared with it, though one before it may have been better: the weights of that are gone.
    fn keep_restored(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let (folder, images) = (self.folder.path(), &self.images.evaluated);
        let is_wanted = self.config.keep_best && best_teacher(folder).is_none();
        if !is_wanted || !self.comparison().has_measured(folder, self.step, images)? {
            return Ok(());
        }
        self.write_best()?;
        let (path, step) = (printable(self.folder.path().join(BEST)), self.step);
        observer.note(&format!("{path} is now the teacher of step {step}"));
        Ok(())
    }
}

fn without_target(why: Error) -> Error {
    const LACK: &str = "there is no checkpoint from before it to go back to";
    match why {
        Error::NotFinite { what, remedy } => Error::not_finite(what, format!("{remedy}; {LACK}")),
        why => Error::Training(format!("{why}; {LACK}")),
    }
}
