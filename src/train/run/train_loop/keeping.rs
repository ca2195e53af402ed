//! Checkpoints and evaluations after a step.

use crate::backbone::TrainBackbone;
use crate::collective::{all_ok, from_rank_0};
use crate::error::{Error, Result};
use crate::files::checkpoint::{FORMAT, Manifest};
use crate::files::model::{ModelCard, write_model, write_timm_folder};
use crate::files::state_dict;
use crate::kernels::TrainBackend;
use crate::train::config::RunConfig;
use crate::train::run::best::{BEST, Standing, set_best_aside};
use crate::train::run::evaluation::{Evaluation, EvaluationTime, Evaluator};
use crate::train::run::observer::Observer;
use crate::train::run::patches::patch_colors;
use crate::train::run::together::check_same_tensors;
use crate::train::run::train_loop::TrainLoop;
use crate::train::trainer::{Tensors, backbones_of};
use crate::train::weights::Origin;

/// An evaluation that is due.
pub(in super::super) struct DueEvaluation {
    pub when: EvaluationTime,
    pub with_knn: bool,
}

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    /// Writes and evaluates what is due after a step: writes first, so that a crash in the evaluation loses nothing.
    pub(super) fn after_step(&mut self, observer: &mut dyn Observer) -> Result<()> {
        observer.between_steps(self.step);
        let (stopped, is_due) = (self.is_stopped()?, self.is_checkpoint_due()?);
        let is_last = self.step == self.schedule.steps;
        let ends_epoch = self.step.is_multiple_of(self.schedule.steps_per_epoch);
        let due = self.due_evaluation();
        let judges = self.compares_teachers() && due.as_ref().is_some_and(|due| due.with_knn);
        self.knn = None; // that of an earlier step must not enter this step's checkpoint
        // k-NN needs a checkpoint of its step, because the best one by accuracy is kept; and a run never resumes from
        // before the best teacher
        if stopped || is_last || judges || is_due {
            self.checkpoint()?;
            observer.checkpoint(self.step);
        } else if ends_epoch && self.is_far_from_last_epoch() {
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
            let when = EvaluationTime::After;
            let with_knn = true;
            return Some(DueEvaluation { when, with_knn });
        }
        let epochs = self.step / per_epoch;
        let is_far = self.is_far_from_last_epoch();
        let with_knn = match self.setup.request.knn_every {
            0 => self.config.keep_best && is_far,
            every => epochs.is_multiple_of(every),
        };
        let is_due = with_knn || (is_far && self.config.health_every > 0);
        (self.step > 0 && self.step.is_multiple_of(per_epoch) && is_due).then_some(DueEvaluation {
            when: EvaluationTime::Epoch(epochs),
            with_knn,
        })
    }

    /// Whether the epoch that ends at this step is one after which something is written or evaluated: short epochs do not each get
    /// that, but one in `health_every` steps.
    fn is_far_from_last_epoch(&self) -> bool {
        let every = match self.config.health_every {
            0 => RunConfig::default().health_every,
            every => every,
        };
        let looks = |step: usize| step / every;
        let before = self.step.saturating_sub(self.schedule.steps_per_epoch);
        looks(self.step) > looks(before)
    }

    /// Makes up for an evaluation that was due when the run stopped; repeats the last one of a complete run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn owed_evaluation(&self) -> Result<Option<DueEvaluation>> {
        let is_complete = self.step >= self.schedule.steps;
        // an evaluation leaves a line in evaluations.jsonl once it is complete
        let is_missing = || Ok(!self.folder.has_evaluation(self.step)?);
        let is_owed = is_complete || from_rank_0(self.ranks(), is_missing)?;
        Ok(self.due_evaluation().filter(|_| is_owed))
    }

    /// Reads all tensors, and writes them once the device is known to be sound at the end of the read: results of a
    /// failed device never become a checkpoint, and neither do those of ranks that differ.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.follow_rank_0()?;
        let read = || self.trainer.tensors();
        let tensors = self.setup.guard.read::<B, _>(self.trainer.device(), read)?;
        check_same_tensors(&tensors, self.step, self.ranks())?;
        if self.is_first() {
            self.write_checkpoint(tensors)?;
        }
        self.due.done(self.step); // the interval counts from any checkpoint, whatever caused it
        self.saved = Some(self.step);
        Ok(())
    }

    fn write_checkpoint(&mut self, tensors: Tensors) -> Result<()> {
        let (cards, manifest) = (self.cards()?, self.manifest()?);
        self.folder.keep.up_to = self.kept_for_rollback();
        self.folder
            .checkpoint(manifest, tensors, cards)
            .map_err(|error| self.unwritten(error))
    }

    /// Description of a checkpoint of this step.
    pub(super) fn manifest(&self) -> Result<Manifest> {
        let per_epoch = self.schedule.steps_per_epoch;
        let loop_state = serde_json::to_value(&self.monitor).map_err(|error| {
            Error::Training(format!("the checkpoint cannot be written: {error}"))
        })?;
        Ok(Manifest {
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
            loop_state,
        })
    }

    /// Writes both backbones, which rank 0 does.
    pub fn export(&mut self) -> Result<()> {
        if !self.is_first() {
            return Ok(());
        }
        let read = || backbones_of(&self.trainer.method);
        let backbones = self.setup.guard.read::<B, _>(self.trainer.device(), read)?;
        let cards = self.cards()?;
        self.folder
            .export(backbones, cards)
            .map_err(|error| self.unwritten(error))
    }

    fn origin(&self) -> Origin<'_> {
        Origin {
            config: &self.config,
            data: Some(&self.images.card),
            step: self.step,
        }
    }

    fn cards(&self) -> Result<[ModelCard; 2]> {
        let (guard, device) = (&self.setup.guard, self.trainer.device());
        self.origin().cards(&self.trainer.method, guard, device)
    }

    fn show_patches(&self, observer: &mut dyn Observer) -> Result<()> {
        let (guard, device) = (&self.setup.guard, self.trainer.device());
        let teacher = &self.trainer.method.teacher.backbone;
        let (images, augment) = (&self.images.train, &self.config.augment);
        let shown = patch_colors::<B::InnerBackend, _>(teacher, images, augment, guard, device)?;
        if !shown.is_empty() {
            observer.patches(self.step, &shown);
        }
        Ok(())
    }

    /// Evaluates the teacher and writes the result, into the checkpoint of this step too, which rank 0 does.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the run was stopped meanwhile.
    pub fn evaluate(&mut self, due: &DueEvaluation, observer: &mut dyn Observer) -> Result<()> {
        observer.evaluating(due.when);
        let evaluator = Evaluator {
            config: &self.config,
            images: &self.images,
            guard: &self.setup.guard,
            stop: self.setup.stop,
            ranks: self.ranks(),
        };
        let teacher = &self.trainer.method.teacher.backbone;
        let (step, device) = (self.step, self.trainer.device());
        // freed before and after: training and evaluation need buffers of different sizes and cannot reuse each other's
        self.setup.guard.free_unused();
        let evaluation =
            evaluator.evaluate::<B::InnerBackend, _>(teacher, step, due.with_knn, device);
        // k-NN, which rank 0 makes of all features, may be stopped too
        let evaluation = match all_ok(self.ranks(), evaluation) {
            Err(Error::Stopped) => return Err(self.interrupted(observer)),
            Err(error) => return Err(self.not_evaluated(error)),
            Ok(evaluation) => evaluation,
        };
        self.setup.guard.free_unused();
        match evaluation {
            Some(evaluation) => self.keep_evaluation(due.when, &evaluation, observer),
            None => Ok(()),
        }
    }

    fn keep_evaluation(
        &mut self,
        when: EvaluationTime,
        evaluation: &Evaluation,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.knn = evaluation.knn;
        observer.evaluated(when, evaluation);
        let step = self.step;
        if self.config.keep_best {
            // before it is logged: after a crash in between, the missing line has the evaluation made again
            self.keep_best(evaluation, observer)?;
        }
        self.folder.keep.up_to = self.kept_for_rollback(); // not yet known where the run has just resumed
        let logged = self.folder.log_evaluation(evaluation);
        let written = logged.and_then(|()| match evaluation.knn {
            // logged first: a crash in between loses the score in the manifest, not the line
            Some(knn) if self.saved == Some(step) => self.folder.score(step, knn),
            _ => Ok(()),
        });
        written.map_err(|error| self.unwritten(error))
    }

    /// Writes the teacher if it is the best so far.
    fn keep_best(&mut self, evaluation: &Evaluation, observer: &mut dyn Observer) -> Result<()> {
        let folder = self.folder.path();
        match self.comparison().standing(folder, evaluation)? {
            Standing::NotBest => return Ok(()),
            Standing::FirstOnTheseImages => {
                let why = "other images or another measure";
                set_best_aside(folder, None, why, observer)?;
            }
            Standing::Best => {}
        }
        self.write_best()
    }

    /// Writes the teacher of this step as the best one.
    pub(super) fn write_best(&mut self) -> Result<()> {
        let (guard, device) = (&self.setup.guard, self.trainer.device());
        let teacher = &self.trainer.method.teacher.backbone;
        let tensors = guard.read::<B, _>(device, || state_dict(teacher))?;
        let card = self
            .origin()
            .card::<B::InnerBackend, _>("teacher", teacher, guard, device)?;
        let path = self.folder.path().join(BEST);
        // a write in the background writes model.safetensors, too
        let waited = self.folder.finish();
        let written = waited
            .and_then(|()| write_model(&path, &card, &tensors))
            .and_then(|()| write_timm_folder(&path, &card));
        written.map_err(|error| self.unwritten(error))
    }
}
