//! Checkpoints and evaluations after a step.

use std::sync::atomic::Ordering;

use crate::backbone::TrainBackbone;
use crate::error::{Error, Result};
use crate::files::checkpoint::{FORMAT, Manifest};
use crate::files::model::ModelCard;
use crate::kernels::TrainBackend;
use crate::train::run::evaluation::{Evaluator, When};
use crate::train::run::observer::Observer;
use crate::train::run::patches::patch_colors;
use crate::train::run::train_loop::TrainLoop;
use crate::train::trainer::backbones_of;
use crate::train::weights::Origin;

/// An evaluation that is due.
pub(in super::super) struct DueEvaluation {
    pub when: When,
    pub with_knn: bool,
}

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    /// Writes and evaluates what is due after a step: writes first, so that a crash in the evaluation loses nothing.
    pub(super) fn keep(&mut self, observer: &mut dyn Observer) -> Result<()> {
        observer.between_steps(self.step);
        let stopped = self.setup.stop.load(Ordering::Relaxed);
        let is_last = self.step == self.schedule.steps;
        let ends_epoch = self.step.is_multiple_of(self.schedule.steps_per_epoch);
        let due = self.due_evaluation();
        let asks_knn = self.has_val() && due.as_ref().is_some_and(|due| due.with_knn);
        self.knn = None; // that of an earlier step must not enter this step's checkpoint
        // k-NN needs a checkpoint of its step, because the best one by accuracy is kept
        if stopped || is_last || asks_knn || self.due.is_due(self.step) {
            self.checkpoint()?;
            observer.checkpoint(self.step);
        } else if ends_epoch {
            self.export()?;
        }
        if stopped && !is_last {
            return Err(self.interrupted(observer));
        }
        if observer.wants_patches(ends_epoch) {
            self.show_patches(observer)?;
        }
        match due {
            Some(due) => self.evaluate(&due, observer),
            None => Ok(()),
        }
    }

    /// The evaluation that is due after this step.
    fn due_evaluation(&self) -> Option<DueEvaluation> {
        let per_epoch = self.schedule.steps_per_epoch;
        if self.step >= self.schedule.steps {
            let when = When::After;
            let with_knn = true;
            return Some(DueEvaluation { when, with_knn });
        }
        let epochs = self.step / per_epoch;
        let every = self.setup.request.knn_every;
        let with_knn = every > 0 && epochs.is_multiple_of(every);
        // short epochs do not each get an evaluation of the features: one in `health_every` steps
        let looks = |step: usize| step.checked_div(self.config.health_every).unwrap_or(0);
        let is_due = with_knn || looks(self.step) > looks(self.step.saturating_sub(per_epoch));
        (self.step > 0 && self.step.is_multiple_of(per_epoch) && is_due).then_some(DueEvaluation {
            when: When::Epoch(epochs),
            with_knn,
        })
    }

    /// Makes up for an evaluation that was due when the run stopped; repeats the last one of a complete run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn owed_evaluation(&self) -> Result<Option<DueEvaluation>> {
        let is_complete = self.step >= self.schedule.steps;
        // an evaluation leaves a line in evaluations.jsonl once it is complete
        let is_owed = is_complete || !self.folder.has_evaluation(self.step)?;
        Ok(self.due_evaluation().filter(|_| is_owed))
    }

    /// Reads all tensors, and writes them once the device is known to be sound at the end of the read: results of a
    /// failed device never become a checkpoint.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        let read = || self.trainer.tensors();
        let tensors = self.setup.guard.read::<B, _>(self.trainer.device(), read)?;
        let cards = self.cards()?;
        let per_epoch = self.schedule.steps_per_epoch;
        let manifest = Manifest {
            format: FORMAT,
            ibot: env!("CARGO_PKG_VERSION").into(),
            step: self.step,
            epoch: self.step / per_epoch,
            batch: self.step % per_epoch,
            seed: self.config.seed,
            config: self.config.to_toml()?,
            knn: self.knn,
            learning_rate_factor: self.learning_rate_factor,
            rollbacks: self.rollbacks,
            health: serde_json::to_value(&self.monitor).unwrap_or_default(),
        };
        self.folder
            .checkpoint(manifest, tensors, cards)
            .map_err(|error| self.unwritten(error))?;
        self.due.done(self.step); // the interval counts from any checkpoint, whatever caused it
        self.saved = Some(self.step);
        Ok(())
    }

    /// Writes both backbones.
    fn export(&mut self) -> Result<()> {
        let read = || backbones_of(&self.trainer.method);
        let backbones = self.setup.guard.read::<B, _>(self.trainer.device(), read)?;
        let cards = self.cards()?;
        self.folder
            .export(backbones, cards)
            .map_err(|error| self.unwritten(error))
    }

    fn cards(&self) -> Result<[ModelCard; 2]> {
        let origin = Origin {
            config: &self.config,
            data: Some(&self.pictures.card),
            step: self.step,
        };
        origin.cards(
            &self.trainer.method,
            &self.setup.guard,
            self.trainer.device(),
        )
    }

    fn show_patches(&self, observer: &mut dyn Observer) -> Result<()> {
        let (guard, device) = (&self.setup.guard, self.trainer.device());
        let teacher = &self.trainer.method.teacher.backbone;
        let (pictures, augment) = (&self.pictures.train, &self.config.augment);
        let shown = patch_colors::<B::InnerBackend, _>(teacher, pictures, augment, guard, device)?;
        if !shown.is_empty() {
            observer.patches(self.step, &shown);
        }
        Ok(())
    }

    /// Evaluates the teacher and writes the result, into the checkpoint of this step too.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the run was stopped meanwhile.
    pub fn evaluate(&mut self, due: &DueEvaluation, observer: &mut dyn Observer) -> Result<()> {
        let evaluator = Evaluator {
            config: &self.config,
            pictures: &self.pictures,
            guard: &self.setup.guard,
            stop: self.setup.stop,
        };
        let teacher = &self.trainer.method.teacher.backbone;
        // freed before and after: training and evaluation need buffers of different sizes and cannot reuse each other's
        self.setup.guard.free_unused();
        let evaluation = evaluator.evaluate::<B::InnerBackend, _>(
            teacher,
            self.step,
            due.with_knn,
            self.trainer.device(),
        );
        let evaluation = match evaluation {
            Err(Error::Stopped) => return Err(self.interrupted(observer)),
            evaluation => evaluation?,
        };
        self.setup.guard.free_unused();
        self.knn = evaluation.knn;
        observer.evaluated(due.when, &evaluation);
        let step = self.step;
        let logged = self.folder.log_evaluation(&evaluation);
        let written = logged.and_then(|()| match evaluation.knn {
            // logged first: a crash in between loses the score in the manifest, not the line
            Some(knn) if self.saved == Some(step) => self.folder.score(step, knn),
            _ => Ok(()),
        });
        written.map_err(|error| self.unwritten(error))
    }
}
