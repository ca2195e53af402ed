//! What a loader holds stays below its bound, however slow the one who takes its batches is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ibot::Result;
use ibot::data::{AugmentConfig, ImageSource, Loader, LoaderConfig, Pixels, Position, TrainViews};
use image::RgbImage;

use super::MadeImages;
use super::loading::train_views;

const BATCH: usize = 4;

/// Images that say how large they are, and count how many are decoded at a time.
struct Counted {
    images: MadeImages,
    bytes: u64,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Counted {
    fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            images: MadeImages::new(256),
            bytes,
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn decoded(&self) -> usize {
        self.images.decoded.load(Ordering::SeqCst)
    }
}

impl ImageSource for Counted {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> PathBuf {
        self.images.name(index)
    }

    fn image_bytes(&self, _index: usize) -> u64 {
        self.bytes
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        let at_a_time = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(at_a_time, Ordering::SeqCst);
        sleep(Duration::from_millis(2));
        let image = self.images.decode(index);
        self.now.fetch_sub(1, Ordering::SeqCst);
        image
    }
}

/// With sixteen batches ahead, of 1.5 MiB each, if there is memory for them.
fn loader(source: &Arc<Counted>, memory_mib: usize) -> Loader {
    let views = TrainViews {
        augment: AugmentConfig {
            image_size: 128,
            ..train_views().augment
        },
        ..train_views()
    };
    let config = LoaderConfig {
        batch_size: BATCH,
        workers: 8,
        queue: 16,
        memory_mib,
        ..LoaderConfig::default()
    };
    Loader::new(source.clone(), views, &config, Position::default()).unwrap()
}

/// How many images are decoded if no more batches are taken: `expected`, or more.
fn at_rest(source: &Counted, expected: usize) -> usize {
    let start = Instant::now();
    while source.decoded() < expected && start.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(1));
    }
    // for those that are too many
    sleep(Duration::from_millis(100));
    source.decoded()
}

#[test]
fn batches_that_wait_stay_below_the_bound() {
    // half of the memory is 4 MiB
    for (memory_mib, ahead) in [(8, 2), (0, 16)] {
        let source = Counted::new(0);
        let mut loader = loader(&source, memory_mib);
        for taken in 0..4 {
            let held = at_rest(&source, (taken + ahead) * BATCH) - taken * BATCH;
            assert_eq!(held, ahead * BATCH, "{memory_mib} MiB, {taken} are taken");
            let batch = loader.next_batch().unwrap();
            let bytes: usize = batch.views.iter().map(Pixels::bytes).sum();
            assert_eq!(bytes, 3 << 19);
        }
    }
}

#[test]
fn images_that_are_decoded_at_a_time_stay_below_the_bound() {
    let most = |memory_mib| {
        let source = Counted::new(3 << 19);
        let mut loader = loader(&source, memory_mib);
        for _ in 0..16 {
            loader.next_batch().unwrap();
        }
        source.most.load(Ordering::SeqCst)
    };
    assert_eq!(most(8), 2);
    assert!(most(0) > 2, "eight workers");
}

/// One at a time, or training could never go on.
#[test]
fn what_is_larger_than_the_bound_comes_one_by_one() {
    let (source, free) = (Counted::new(3 << 20), Counted::new(0));
    let (mut bounded, mut other) = (loader(&source, 1), loader(&free, 0));
    for taken in 1..5 {
        assert_eq!(bounded.next_batch().unwrap(), other.next_batch().unwrap());
        assert_eq!(at_rest(&source, (taken + 1) * BATCH), (taken + 1) * BATCH);
    }
    assert_eq!(source.most.load(Ordering::SeqCst), 1);
}
