//! How fast a folder becomes batches, without a model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::ImageSource;
use crate::data::loader::config::LoaderConfig;
use crate::data::loader::{Loader, Position, TrainViews};
use crate::data::views::pixels::Pixels;
use crate::error::{Error, Result};

/// Small batches, so that a measurement ends soon after its time.
const BATCH: usize = 16;

/// What a loader gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderSpeed {
    /// Images per second, each with all its views.
    pub images_per_s: f64,
    /// Bytes of the views of an image, in memory and on the way to a GPU.
    pub bytes_per_image: usize,
}

/// Images per second, each giving all its views, that `workers` threads (0 for one per processor) prepare: decoding
/// included, no image kept. Runs about as long as `duration`.
///
/// # Errors
/// As [`Loader::new`] and [`Loader::next_batch`].
pub fn bench_loader(
    source: Arc<dyn ImageSource>,
    make: TrainViews,
    workers: usize,
    duration: Duration,
) -> Result<LoaderSpeed> {
    let config = LoaderConfig {
        batch_size: source.len().clamp(1, BATCH),
        workers,
        cache_mib: 0,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::new(source, make, &config, Position::default())?;
    // not measured: until the threads run and the files are in the system's cache, if they fit there
    loader.next_batch()?;
    let batch = loader.next_batch()?;
    let bytes: usize = batch.views.iter().map(Pixels::bytes).sum();
    let bytes_per_image = bytes / batch.samples.len();
    drop(batch);
    let start = Instant::now();
    let mut images = 0;
    while start.elapsed() < duration {
        images += loader.next_batch()?.samples.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    if images == 0 {
        return Err(Error::config(
            "seconds",
            duration.as_secs_f64(),
            "measure longer",
        ));
    }
    Ok(LoaderSpeed {
        images_per_s: images as f64 / seconds,
        bytes_per_image,
    })
}
