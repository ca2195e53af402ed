//! Batches to train on: shuffled every epoch, augmented and masked ahead of the model.
//!
//! - `config`: how they are made; `pool`, `open_batch`: worker threads that give batches in order; `budget`: how much they may hold;
//!   `pace`: whether they wait for a disk; `images`: what they decode
//! - [`evaluation`]: batches to evaluate on; `masked`: images with segmentation masks
//! - [`mod@bench`]: how fast a folder becomes batches; `mosaic`: the first views of a run on one image

pub mod bench;
mod budget;
pub(in crate::data) mod config;
pub mod evaluation;
pub(crate) mod images;
pub(in crate::data) mod masked;
pub(in crate::data) mod mosaic;
mod open_batch;
mod pace;
pub(crate) mod pool;
mod pool_state;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::collective::share;
use crate::data::ImageSource;
use crate::data::folder::order::{Order, Shuffle};
use crate::data::loader::config::LoaderConfig;
use crate::data::loader::images::Images;
use crate::data::loader::open_batch::Slot;
use crate::data::loader::pool::{Pool, Task};
use crate::data::views::augment::{AugmentConfig, ViewKind};
use crate::data::views::pixels::Pixels;
use crate::data::views::view::{Augmenter, View};
use crate::error::{Error, Result, printable};
use crate::lock::lock;
use crate::masking::MaskPolicy;

/// What is made of every image.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainViews {
    /// The views.
    pub augment: AugmentConfig,
    /// Their masks.
    pub masks: MaskPolicy,
    /// Rows and columns of patches in a global view.
    pub grid: [usize; 2],
}

/// A place in training: batch number `batch` of epoch `epoch`, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Epoch.
    pub epoch: usize,
    /// Batch of that epoch; numbers past its last batch count on into the next epochs.
    pub batch: usize,
}

/// One batch to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Number in the epoch, from 0.
    pub index: usize,
    /// `[B]`: places in the source. Where an image cannot be read, another one is shown instead, which is drawn anew in each
    /// epoch.
    pub samples: Vec<usize>,
    /// `[B]`: classes of the images that are shown, where the source has them.
    pub labels: Vec<Option<usize>>,
    /// G times `[B, 3, S, S]`, then L times `[B, 3, s, s]` with the side s of local views.
    pub views: Vec<Pixels>,
    /// `[G * B, N]`, view by view as the concatenated global views; true where a patch is masked.
    pub masks: Vec<bool>,
}

/// Endless batches, in order, equal for any number of workers. Dropping it joins its threads.
pub struct Loader {
    pool: Pool<TrainTask>,
    batches: usize,
}

impl Loader {
    /// Starts the threads; the first batch is that of `start`.
    ///
    /// # Errors
    /// A setting out of its range, a source with fewer images than a batch, or no thread could be started.
    pub fn new(
        source: Arc<dyn ImageSource>,
        make: TrainViews,
        config: &LoaderConfig,
        start: Position,
    ) -> Result<Self> {
        config.validate()?;
        make.augment.validate()?;
        make.masks.validate()?;
        let images = source.len();
        // a smaller last batch would change the statistics of centers and Sinkhorn targets
        let batches = if config.drop_last {
            images / config.batch_size
        } else {
            images.div_ceil(config.batch_size)
        };
        if batches == 0 {
            return Err(too_few(images, config.batch_size));
        }
        let queue = config.open_batches();
        let task = TrainTask {
            images: Images::new(source, (config.cache_mib as u64) << 20),
            make,
            seed: config.seed,
            batch_size: config.batch_size,
            share: [config.rank, config.ranks],
            batches,
            order: Mutex::new(None),
        };
        // saturating, so that no position can overflow
        let first = start
            .epoch
            .saturating_mul(batches)
            .saturating_add(start.batch);
        Ok(Self {
            pool: Pool::new(task, config.pool_workers(), queue, config.memory(), first)?,
            batches,
        })
    }

    /// The next batch; waits for it.
    ///
    /// # Errors
    /// No image can be decoded, none can be read for a minute, or a worker panicked; every later call fails as well.
    pub fn next_batch(&mut self) -> Result<Batch> {
        self.next_batch_until(&AtomicBool::new(false))
    }

    /// [`Loader::next_batch`], which does not wait once `stop` is set.
    ///
    /// # Errors
    /// Those of [`Loader::next_batch`]; [`Error::Stopped`], after which the batch is still available.
    pub fn next_batch_until(&mut self, stop: &AtomicBool) -> Result<Batch> {
        let made = self.pool.take(stop)?;
        let made = made.ok_or_else(|| Error::Loader("the loader has ended".to_owned()))?;
        // batches are numbered through all epochs, so the pool needs no notion of an epoch
        let (epoch, index) = (made.number / self.batches, made.number % self.batches);
        let task = self.pool.task();
        // masks need the index of an image, not its pixels, so they are drawn here and not by a worker
        let masks = task.masks(epoch, &made.samples);
        let source = task.images.source();
        let label = |shown: &Option<usize>| shown.and_then(|shown| source.label(shown));
        Ok(Batch {
            epoch,
            index,
            labels: made.shown.iter().map(label).collect(),
            samples: made.samples,
            views: made.views,
            masks,
        })
    }

    /// The next batch, if no wait for it is needed.
    ///
    /// # Errors
    /// As [`Loader::next_batch`].
    pub fn next_if_ready(&mut self) -> Result<Option<Batch>> {
        if !self.pool.is_ready() {
            return Ok(None);
        }
        self.next_batch().map(Some)
    }

    /// Batches in an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    /// How many images are damaged or gone, as far as they were read. Those that a disk or server did not give once are not
    /// counted.
    pub fn skipped(&self) -> usize {
        self.pool.task().images.skipped()
    }

    /// The images that are damaged or gone, and why, since the last call; each appears once. Those that a disk or server did not
    /// give, which are tried again in the next epoch, are one entry: the first of them, why, and how many others there are.
    pub fn take_skipped(&self) -> Vec<(PathBuf, String)> {
        self.pool.task().images.take_skipped()
    }
}

/// The error about fewer images than a batch.
pub(crate) fn too_few(images: usize, batch_size: usize) -> Error {
    match images {
        0 => Error::Loader("there are no images to train on".to_owned()),
        1 => Error::Loader("1 image is too few to train on: at least 2 are needed".to_owned()),
        _ => {
            let remedy = format!(
                "there are only {images} images; lower batch_size to {images} or less, or add images"
            );
            Error::config("batch_size", batch_size, remedy)
        }
    }
}

/// The order of `count` samples in `epoch`: a permutation that depends on the seed and the epoch only.
pub fn epoch_order(seed: u64, epoch: usize, count: usize) -> Vec<usize> {
    let order = Order::new(Shuffle::All, seed, epoch, count);
    (0..count).map(|position| order.at(position)).collect()
}

struct TrainTask {
    images: Images,
    make: TrainViews,
    seed: u64,
    batch_size: usize,
    /// Rank and number of ranks.
    share: [usize; 2],
    batches: usize,
    /// The epoch whose batches are being opened, and its order.
    order: Mutex<Option<(usize, Arc<Order>)>>,
}

impl TrainTask {
    /// The order of an epoch, made where it is not that of the last call. Its lock is held by the one thread that opens a batch.
    fn order(&self, epoch: usize) -> Arc<Order> {
        let mut last = lock(&self.order);
        if let Some((of, order)) = &*last
            && *of == epoch
        {
            return order.clone();
        }
        // the last epoch's memory goes first
        *last = None;
        let order = Arc::new(Order::of(self.images.source(), self.seed, epoch));
        *last = Some((epoch, order.clone()));
        order
    }

    /// Entries of each view of so many samples.
    fn entries(&self, samples: usize) -> impl Iterator<Item = usize> {
        let augment = &self.make.augment;
        let side = move |view| augment.size_and_scale(augment.kind(view)).0;
        (0..augment.views()).map(move |view| samples * 3 * side(view) * side(view))
    }

    /// `[G * B, N]`
    fn masks(&self, epoch: usize, samples: &[usize]) -> Vec<bool> {
        let TrainViews {
            augment,
            masks,
            grid,
        } = &self.make;
        let patches = grid[0] * grid[1];
        let mut all = Vec::with_capacity(augment.global_views * samples.len() * patches);
        for view in 0..augment.global_views {
            for &sample in samples {
                all.extend(masks.mask(self.seed, epoch as u64, sample, view, *grid));
            }
        }
        all
    }
}

/// One augmenter for each size of views.
struct Augmenters {
    global: Augmenter,
    local: Option<Augmenter>,
}

impl Augmenters {
    fn of(&mut self, kind: ViewKind) -> &mut Augmenter {
        match (kind, &mut self.local) {
            (ViewKind::Local, Some(local)) => local, // its buffers have the size of local views
            _ => &mut self.global,
        }
    }
}

impl Task for TrainTask {
    type Worker = Augmenters;

    fn worker(&self) -> Augmenters {
        let augment = &self.make.augment;
        Augmenters {
            global: Augmenter::new(augment),
            local: (augment.local_views > 0).then(|| Augmenter::of_kind(augment, ViewKind::Local)),
        }
    }

    fn batch_bytes(&self) -> usize {
        let samples = self.batch_size.div_ceil(self.share[1]);
        let entries = self.entries(samples).sum();
        Pixels::bytes_of_views(&self.make.augment, entries)
    }

    fn room(&self, samples: usize) -> Vec<Pixels> {
        let augment = &self.make.augment;
        let entries = self.entries(samples);
        entries
            .map(|count| Pixels::of_views(augment, count))
            .collect()
    }

    fn image_bytes(&self, sample: usize) -> usize {
        self.images.decoding_bytes(sample)
    }

    fn samples(&self, number: usize) -> Option<Vec<usize>> {
        let (epoch, index) = (number / self.batches, number % self.batches);
        let order = self.order(epoch);
        let start = index * self.batch_size;
        let count = order.len().checked_sub(start)?.min(self.batch_size);
        let [rank, ranks] = self.share;
        let own = share(rank, ranks, count);
        (count > 0).then(|| own.map(|position| order.at(start + position)).collect())
    }

    fn make(
        &self,
        augmenters: &mut Augmenters,
        number: usize,
        sample: usize,
        slot: &Slot,
    ) -> Result<Option<usize>> {
        let epoch = (number / self.batches) as u64;
        // an unreadable image is replaced, so that every batch is full
        let (shown, image) = self.images.get_or_another(sample, self.seed, epoch)?;
        let augment = &self.make.augment;
        for number in 0..augment.views() {
            let size = [image.width(), image.height()];
            // keyed by `sample`, not by what is shown: an image that becomes unreadable changes no other draw
            let view = View::new(augment, self.seed, epoch, sample, number, size);
            let augmenter = augmenters.of(augment.kind(number));
            augmenter.render(&image, &view)?;
            slot.write(number, |pixels, place| augmenter.write_to(pixels, place));
        }
        Ok(Some(shown))
    }

    fn stop(&self) {
        self.images.stop();
    }

    fn name(&self, sample: usize) -> String {
        printable(self.images.source().name(sample))
    }
}
