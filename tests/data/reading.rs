//! The loader where reading is slow, and orders that take long or are made by blocks.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use ibot::Result;
use ibot::data::{ImageSource, Loader, Position, Shuffle, reading};
use image::RgbImage;

use super::MadeImages;
use super::loading::{config, loader};

/// A source that waits for each image, and counts how many waits there are at a time.
fn slow(count: usize) -> (MadeImages, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let images = MadeImages::with(count, move |_| {
        let at_a_time = now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(at_a_time, Ordering::SeqCst);
        reading(|| sleep(Duration::from_millis(5)));
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    (images, most)
}

#[test]
fn more_threads_than_cores_read_where_reading_is_slow() {
    let cores = available_parallelism().map_or(1, usize::from);
    let count = 4096;
    let (images, most) = slow(count);
    let mut settings = config(8, 0);
    settings.cache_mib = 0;
    let mut quick = loader(Arc::new(images), &settings, Position::default());
    let mut plain = loader(
        Arc::new(MadeImages::new(count)),
        &config(8, 1),
        Position::default(),
    );
    let start = Instant::now();
    while most.load(Ordering::SeqCst) <= cores && start.elapsed() < Duration::from_secs(20) {
        assert_eq!(quick.next_batch().unwrap(), plain.next_batch().unwrap());
    }
    assert!(most.load(Ordering::SeqCst) > cores, "{cores} cores");
    for _ in 0..8 {
        assert_eq!(quick.next_batch().unwrap(), plain.next_batch().unwrap());
    }
}

#[test]
fn a_given_number_of_threads_stays() {
    let (images, most) = slow(256);
    let mut settings = config(8, 2);
    settings.cache_mib = 0;
    let mut loader = loader(Arc::new(images), &settings, Position::default());
    for _ in 0..12 {
        loader.next_batch().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// Images whose order of the second epoch waits until it is asked for.
struct Ordered {
    images: MadeImages,
    is_released: Arc<(Mutex<bool>, Condvar)>,
    late: Arc<AtomicUsize>,
    shuffle: Shuffle,
}

impl ImageSource for Ordered {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> PathBuf {
        self.images.name(index)
    }

    fn decode(&self, index: usize) -> Result<RgbImage> {
        self.images.decode(index)
    }

    fn order(&self, _: u64, epoch: usize) -> Option<Vec<usize>> {
        if self.shuffle == Shuffle::Blocks {
            return None;
        }
        if epoch == 1 {
            let (lock, released) = &*self.is_released;
            let is_locked = lock.lock().unwrap();
            let long = Duration::from_secs(20);
            let waited = released.wait_timeout_while(is_locked, long, |is_released| !*is_released);
            self.late
                .fetch_add(usize::from(waited.unwrap().1.timed_out()), Ordering::SeqCst);
        }
        Some((0..self.len()).collect())
    }

    fn shuffle(&self) -> Shuffle {
        self.shuffle
    }
}

#[test]
fn batches_are_taken_while_the_next_order_is_made() {
    let (is_released, late) = (Arc::default(), Arc::default());
    let source = Ordered {
        images: MadeImages::new(12),
        is_released: Arc::clone(&is_released),
        late: Arc::clone(&late),
        shuffle: Shuffle::All,
    };
    let mut loader = loader(Arc::new(source), &config(4, 2), Position::default());
    for index in 0..3 {
        assert_eq!(loader.next_batch().unwrap().index, index);
    }
    assert!(loader.next_if_ready().unwrap().is_none());
    *is_released.0.lock().unwrap() = true;
    is_released.1.notify_all();
    assert_eq!(loader.next_batch().unwrap().epoch, 1);
    assert_eq!(late.load(Ordering::SeqCst), 0);
}

#[test]
fn blocks_go_on_in_the_middle_of_an_epoch() {
    let start = |batch: usize| -> Loader {
        let source = Ordered {
            images: MadeImages::new(10_000),
            is_released: Arc::default(),
            late: Arc::default(),
            shuffle: Shuffle::Blocks,
        };
        let start = Position { epoch: 0, batch };
        loader(Arc::new(source), &config(16, 2), start)
    };
    let take = |loader: &mut Loader| [0; 3].map(|_| loader.next_batch().unwrap());
    let mut first = start(623);
    let [_, second, third] = take(&mut first);
    assert_eq!([second.epoch, third.epoch], [0, 1]);
    let [again, after, _] = take(&mut start(624));
    assert_eq!([second, third], [again, after]);
}
