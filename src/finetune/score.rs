//! Accuracy of a classifier.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::collective::{Collective, all_ok, gather_counts, share};
use crate::data::{
    AugmentConfig, ImageFolder, ImageSource as _, eval_batches, none_usable, workers_of_rank,
};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::finetune::classifier::Classifier;
use crate::finetune::config::LOWER_RATE;
use crate::kernels::IbotBackend;

/// Guesses that `top5` looks at.
const FIRST_GUESSES: usize = 5;

/// Images that could not be read, and why.
pub(super) type Skipped = Vec<(PathBuf, String)>;

/// Counts over some images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Score {
    /// Images.
    pub images: usize,
    /// Those whose class is the first guess.
    pub first: usize,
    /// Those whose class is among the first five.
    pub among_five: usize,
}

impl Score {
    /// The score of rows of logits, `[B, K]` row-major, against their classes, `[B]`.
    pub fn from_logits(logits: &[f32], labels: &[usize]) -> Self {
        let mut score = Self::default();
        let classes = logits.len() / labels.len().max(1);
        for (row, label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            let rank = rank(row, *label);
            score.images += 1;
            score.first += usize::from(rank == 0);
            score.among_five += usize::from(rank < FIRST_GUESSES);
        }
        score
    }

    /// Of these images and others.
    pub fn plus(self, other: Self) -> Self {
        Self {
            images: self.images + other.images,
            first: self.first + other.first,
            among_five: self.among_five + other.among_five,
        }
    }

    /// The sum of those of all ranks.
    ///
    /// # Errors
    /// As [`Collective`].
    pub fn of_ranks(self, ranks: &dyn Collective) -> Result<Self> {
        let counts = gather_counts(ranks, [self.images, self.first, self.among_five])?;
        let of_rank = |[images, first, among_five]: [usize; 3]| Self {
            images,
            first,
            among_five,
        };
        let scores = counts.into_iter().map(of_rank);
        Ok(scores.fold(Self::default(), Self::plus))
    }

    /// Share of the images whose class is the first guess.
    pub fn top1(&self) -> f64 {
        self.first as f64 / self.images.max(1) as f64
    }

    /// Share whose class is among the first five.
    pub fn top5(&self) -> f64 {
        self.among_five as f64 / self.images.max(1) as f64
    }
}

/// Number of classes that are guessed before this one; of equal logits the first one is.
fn rank(logits: &[f32], label: usize) -> usize {
    let own = logits[label];
    let before = |(class, logit): &(usize, &f32)| **logit > own || **logit == own && *class < label;
    logits.iter().enumerate().filter(before).count()
}

/// What is evaluated, and how.
pub(super) struct Evaluator<'a> {
    /// Labeled images.
    pub folder: &'a Arc<ImageFolder>,
    /// As the model sees them.
    pub augment: &'a AugmentConfig,
    pub batch_size: usize,
    pub workers: usize,
    pub stop: &'a AtomicBool,
    /// Each scores a share of the images.
    pub ranks: &'a dyn Collective,
}

impl Evaluator<'_> {
    /// The score of a classifier, and the images of this rank that could not be read; none where the user stopped it.
    ///
    /// # Errors
    /// No usable image, a device that failed, logits that are not finite, or another rank that failed.
    pub fn score<B: IbotBackend>(
        &self,
        classifier: &Classifier<B>,
        guard: &DeviceGuard,
        device: &B::Device,
    ) -> Result<Option<(Score, Skipped)>> {
        let own = self.of_share(classifier, guard, device);
        let (own, skipped) = match all_ok(self.ranks, own) {
            Err(Error::Stopped) => return Ok(None),
            own => own?,
        };
        let score = own.of_ranks(self.ranks)?;
        match score.images {
            0 => Err(none_usable(self.folder.len(), skipped.first())),
            _ => Ok(Some((score, skipped))),
        }
    }

    fn of_share<B: IbotBackend>(
        &self,
        classifier: &Classifier<B>,
        guard: &DeviceGuard,
        device: &B::Device,
    ) -> Result<(Score, Skipped)> {
        let side = self.augment.image_size;
        let (rank, ranks) = (self.ranks.rank(), self.ranks.size());
        let own: Vec<usize> = share(rank, ranks, self.folder.len()).collect();
        let mut batches = eval_batches(
            Arc::new(self.folder.part(&own)),
            self.augment,
            self.batch_size,
            workers_of_rank(self.workers, ranks),
        )?
        .or_none();
        let mut score = Score::default();
        while let Some(batch) = batches.next_until(self.stop) {
            let batch = batch?;
            let labels = known(&batch.labels)?;
            let logits = classifier.logits(batch.pixels.into_tensor(side, device));
            let data = guard.read::<B, _>(device, || logits.into_data())?;
            let logits: Vec<f32> = data.iter::<f32>().collect();
            if logits.iter().any(|logit| !logit.is_finite()) {
                return Err(Error::not_finite(
                    "the logits of held-out images are not finite",
                    LOWER_RATE,
                ));
            }
            score = score.plus(Score::from_logits(&logits, &labels));
        }
        Ok((score, batches.take_skipped()))
    }
}

/// The classes of images that all have one.
pub(super) fn known(labels: &[Option<usize>]) -> Result<Vec<usize>> {
    let labels: Option<Vec<usize>> = labels.iter().copied().collect();
    labels.ok_or_else(|| Error::Training("an image without a label reached the classifier".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_guessed_before() {
        let logits = [0.5, 2.0, 2.0, -1.0, 0.5, 0.4, 0.3];
        let ranks: Vec<usize> = (0..7).map(|label| rank(&logits, label)).collect();
        assert_eq!(ranks, [2, 0, 1, 6, 3, 4, 5]);
        let rows = [logits, logits, logits].concat();
        let score = Score::from_logits(&rows, &[1, 5, 6]);
        assert_eq!((score.images, score.first, score.among_five), (3, 1, 2));
        assert_eq!(Score::from_logits(&[], &[]).top1(), 0.0);
    }
}
