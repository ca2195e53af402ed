//! Batches to evaluate on: every usable image once, in order, by the fixed evaluation view.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::data::ImageSource;
use crate::data::loader::budget::memory_bytes;
use crate::data::loader::images::Images;
use crate::data::loader::open_batch::Slot;
use crate::data::loader::pool::{Pool, Task, worker_count};
use crate::data::views::augment::AugmentConfig;
use crate::data::views::pixels::Pixels;
use crate::data::views::view::Augmenter;
use crate::error::{Error, Result, printable};

/// Batches in the making or waiting at any time.
const QUEUE: usize = 2;

/// One batch to evaluate on.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalBatch {
    /// `[B]`: places in the source, rising.
    pub samples: Vec<usize>,
    /// `[B, 3, S, S]`.
    pub pixels: Pixels,
    /// `[B]`: classes, where the source has them.
    pub labels: Vec<Option<usize>>,
}

/// An iterator over a source; see [`eval_batches`].
pub struct EvalBatches {
    pool: Pool<EvalTask>,
    is_over: bool,
    /// Whether any image was usable so far.
    has_images: bool,
}

/// Every usable image of `source`, in order, `batch_size` at a time (fewer in the last batch, and where an image
/// cannot be decoded), made by `workers` threads, 0 for one per processor.
///
/// # Errors
/// A setting out of its range, or no thread could be started. The iterator returns an error if a worker panics, and at its
/// end if no image was usable.
pub fn eval_batches(
    source: Arc<dyn ImageSource>,
    augment: &AugmentConfig,
    batch_size: usize,
    workers: usize,
) -> Result<EvalBatches> {
    augment.validate()?;
    if batch_size == 0 {
        return Err(Error::config("batch_size", batch_size, "give 1 or more"));
    }
    let task = EvalTask {
        // Every image is looked at once, so none is kept.
        images: Images::new(source, 0),
        augment: augment.clone(),
        batch_size,
    };
    let memory = memory_bytes(0, worker_count(workers));
    Ok(EvalBatches {
        pool: Pool::new(task, workers, QUEUE, memory, 0)?,
        is_over: false,
        has_images: false,
    })
}

impl EvalBatches {
    /// The same, but it is no error that no image is usable.
    pub(crate) fn or_none(self) -> Self {
        Self {
            has_images: true,
            ..self
        }
    }

    /// The images that could not be decoded, and why, since the last call; each appears once.
    pub fn take_skipped(&self) -> Vec<(PathBuf, String)> {
        self.pool.task().images.take_skipped()
    }

    /// The next batch; not once `stop` is raised, which is [`Error::Stopped`] and the end.
    pub fn next_until(&mut self, stop: &AtomicBool) -> Option<Result<EvalBatch>> {
        if self.is_over {
            return None;
        }
        let batch = self.advance(stop).transpose();
        self.is_over = !matches!(batch, Some(Ok(_)));
        batch
    }

    fn advance(&mut self, stop: &AtomicBool) -> Result<Option<EvalBatch>> {
        while let Some(mut made) = self.pool.take(stop)? {
            let images = &self.pool.task().images;
            let view_len = self.pool.task().augment.view_len();
            let mut pixels = made.views.pop().unwrap_or_default();
            for (at, shown) in made.shown.iter().enumerate().rev() {
                if shown.is_none() {
                    made.samples.remove(at);
                    pixels.remove(at * view_len..(at + 1) * view_len);
                }
            }
            if made.samples.is_empty() {
                continue;
            }
            self.has_images = true;
            let label = |&sample: &usize| images.source().label(sample);
            return Ok(Some(EvalBatch {
                labels: made.samples.iter().map(label).collect(),
                samples: made.samples,
                pixels,
            }));
        }
        if self.has_images {
            Ok(None)
        } else {
            Err(self.pool.task().images.none_usable())
        }
    }
}

impl Iterator for EvalBatches {
    type Item = Result<EvalBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(&AtomicBool::new(false))
    }
}

struct EvalTask {
    images: Images,
    augment: AugmentConfig,
    batch_size: usize,
}

impl Task for EvalTask {
    type Worker = Augmenter;

    fn worker(&self) -> Augmenter {
        Augmenter::new(&self.augment)
    }

    fn batch_bytes(&self) -> usize {
        // an entry of levels is a byte
        let samples = self.batch_size.min(self.images.source().len());
        samples * self.augment.view_len()
    }

    fn image_bytes(&self, sample: usize) -> usize {
        self.images.decoding_bytes(sample)
    }

    fn room(&self, samples: usize) -> Vec<Pixels> {
        // not a fraction in them: a resized image has whole levels
        let levels = vec![0; samples * self.augment.view_len()];
        vec![Pixels::from_levels(levels, &self.augment)]
    }

    fn stop(&self) {
        self.images.stop();
    }

    fn samples(&self, number: usize) -> Option<Vec<usize>> {
        let count = self.images.source().len();
        let start = number * self.batch_size;
        (start < count).then(|| (start..count.min(start + self.batch_size)).collect())
    }

    fn make(
        &self,
        augmenter: &mut Augmenter,
        _number: usize,
        sample: usize,
        slot: &Slot,
    ) -> Result<Option<usize>> {
        let Some(image) = self.images.get(sample)? else {
            return Ok(None);
        };
        augmenter.eval_view(&image)?;
        slot.write(0, |pixels, place| augmenter.write_to(pixels, place));
        Ok(Some(sample))
    }

    fn name(&self, sample: usize) -> String {
        printable(self.images.source().name(sample))
    }
}
