//! Whether workers wait for images to be read, and how many threads and batches that asks for.

use std::time::Duration;

/// Threads for each core, at most, where they mostly wait for images; and in all.
const WAITING_PER_CORE: usize = 4;
const WAITING: usize = 32;
/// Samples of each thread between two decisions about their number.
const SAMPLES: usize = 4;

/// What workers did since the last decision about their number.
#[derive(Default)]
pub(super) struct Pace {
    samples: usize,
    /// Time of all workers.
    all: Duration,
    /// Of it, time that they waited for images to be read.
    waited: Duration,
}

impl Pace {
    /// One more sample.
    pub fn add(&mut self, all: Duration, waited: Duration) {
        self.samples += 1;
        self.all += all;
        self.waited += waited;
    }

    /// Whether so many threads wait most of their time, by enough samples; then begins anew.
    pub fn is_slow(&mut self, threads: usize) -> bool {
        if self.samples < SAMPLES * threads {
            return false;
        }
        let Self { all, waited, .. } = std::mem::take(self);
        waited * 2 > all
    }
}

/// Threads at most: as many as were asked for, or some for each of `cores` where none were.
pub(super) fn most_threads(asked: usize, cores: usize) -> usize {
    match asked {
        0 => cores.max(WAITING.min(cores * WAITING_PER_CORE)),
        _ => cores,
    }
}

/// Batches to have open for so many threads: all have a sample while one batch waits for its last and another to be taken.
pub(super) fn batches_ahead(threads: usize, samples: usize) -> usize {
    2 + threads.div_ceil(samples.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_where_reading_takes_most_of_the_time() {
        let milliseconds = Duration::from_millis;
        let mut pace = Pace::default();
        for _ in 0..7 {
            pace.add(milliseconds(10), milliseconds(9));
        }
        assert!(!pace.is_slow(2), "too few samples");
        pace.add(milliseconds(10), milliseconds(9));
        assert!(pace.is_slow(2));
        assert!(!pace.is_slow(2), "begins anew");
        for _ in 0..8 {
            pace.add(milliseconds(10), milliseconds(5));
        }
        assert!(!pace.is_slow(2), "decoding takes as long");
    }

    #[test]
    fn threads_have_a_bound_and_each_has_a_sample() {
        assert_eq!([most_threads(0, 2), most_threads(3, 3)], [8, 3]);
        assert_eq!([most_threads(0, 12), most_threads(0, 64)], [32, 64]);
        assert_eq!([batches_ahead(8, 64), batches_ahead(8, 2)], [3, 6]);
    }
}
