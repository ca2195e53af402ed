//! What the ranks of a run decide together; with one rank, each is its own decision.

use std::sync::atomic::Ordering;

use crate::backbone::TrainBackbone;
use crate::collective::{Collective, any_rank, from_rank_0};
use crate::error::{Error, Result};
use crate::kernels::TrainBackend;
use crate::train::run::metrics::StepMetrics;
use crate::train::run::together::tensors_of_rank_0;
use crate::train::run::train_loop::TrainLoop;
use crate::train::trainer::Tensors;

impl<B: TrainBackend, M: TrainBackbone<B>> TrainLoop<'_, B, M> {
    pub(super) fn ranks(&self) -> &dyn Collective {
        &*self.setup.request.collective
    }

    /// Whether this rank writes and evaluates.
    pub(super) fn is_first(&self) -> bool {
        self.ranks().rank() == 0
    }

    /// Whether any rank was stopped.
    pub(super) fn is_stopped(&self) -> Result<bool> {
        any_rank(self.ranks(), self.setup.stop.load(Ordering::Relaxed))
    }

    /// Whether metrics are read after this step: the word of rank 0, whose clock counts, or of a rank that was stopped.
    pub(super) fn all_read_now(&self) -> Result<bool> {
        let stopped = self.setup.stop.load(Ordering::Relaxed);
        any_rank(
            self.ranks(),
            stopped || (self.is_first() && self.reads_now()),
        )
    }

    /// Whether a checkpoint is due, by the clock of rank 0.
    pub(super) fn is_checkpoint_due(&self) -> Result<bool> {
        any_rank(self.ranks(), self.is_first() && self.due.is_due(self.step))
    }

    /// Gives all ranks the anomalies that rank 0 sees.
    pub(super) fn share_anomalies(&self, last: Option<&mut StepMetrics>) -> Result<()> {
        if let Some(metrics) = last.filter(|_| self.is_health_check_due()) {
            let seen = std::mem::take(&mut metrics.anomalies);
            metrics.anomalies = from_rank_0(self.ranks(), || Ok(seen))?;
        }
        Ok(())
    }

    /// Makes the trainer that of rank 0 where devices round differently.
    pub(super) fn follow_rank_0(&mut self) -> Result<()> {
        if !self.setup.request.mixed_devices || self.ranks().size() == 1 {
            return Ok(());
        }
        let read = || self.trainer.tensors();
        let own = if self.is_first() {
            self.setup.guard.read::<B, _>(self.trainer.device(), read)?
        } else {
            Tensors::new()
        };
        let tensors = tensors_of_rank_0(own, self.ranks())?;
        if self.is_first() {
            Ok(())
        } else {
            self.trainer.restore(self.step, tensors, self.folder.path())
        }
    }

    /// An error of this rank alone, in the middle of a step: the others are not where they could agree on anything.
    pub(super) fn parted(&mut self, error: Error) -> Error {
        self.has_parted = self.ranks().size() > 1;
        error
    }
}
