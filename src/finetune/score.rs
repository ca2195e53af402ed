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
use crate::eval::ClassifierScore;
use crate::finetune::classifier::Classifier;
use crate::finetune::config::LOWER_RATE;
use crate::kernels::IbotBackend;

/// Images that could not be read, and why.
pub(super) type Skipped = Vec<(PathBuf, String)>;

/// The sum of the scores of all ranks.
///
/// # Errors
/// As [`Collective`].
fn of_ranks(own: ClassifierScore, ranks: &dyn Collective) -> Result<ClassifierScore> {
    let counts = gather_counts(ranks, [own.images, own.first, own.among_five])?;
    let of_rank = |[images, first, among_five]: [usize; 3]| ClassifierScore {
        images,
        first,
        among_five,
    };
    let scores = counts.into_iter().map(of_rank);
    Ok(scores.fold(ClassifierScore::default(), ClassifierScore::plus))
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
    ) -> Result<Option<(ClassifierScore, Skipped)>> {
        let own = self.of_share(classifier, guard, device);
        let (own, skipped) = match all_ok(self.ranks, own) {
            Err(Error::Stopped) => return Ok(None),
            own => own?,
        };
        let score = of_ranks(own, self.ranks)?;
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
    ) -> Result<(ClassifierScore, Skipped)> {
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
        let mut score = ClassifierScore::default();
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
            score = score.plus(ClassifierScore::from_logits(&logits, &labels));
        }
        Ok((score, batches.take_skipped()))
    }
}

/// The classes of images that all have one.
pub(super) fn known(labels: &[Option<usize>]) -> Result<Vec<usize>> {
    let labels: Option<Vec<usize>> = labels.iter().copied().collect();
    labels.ok_or_else(|| Error::Training("an image without a label reached the classifier".into()))
}
