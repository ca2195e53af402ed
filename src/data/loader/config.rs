//! How batches are made.

use serde::{Deserialize, Serialize};

use crate::data::loader::budget::{Budget, memory_bytes};
use crate::data::loader::pool::{worker_count, workers_of_rank};
use crate::error::{Error, Result};

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Images per batch, B. Default 64.
    pub batch_size: usize,
    /// Threads that decode and augment; 0 for one per core, growing to at most four per core while they mostly wait
    /// for files. With several ranks, 0 is the number of rayon's threads, which a launcher sets to the rank's share of its machine. Default 0.
    pub workers: usize,
    /// Seed of order, views and masks. Default 0.
    pub seed: u64,
    /// Batches that are prepared ahead, at least, as far as `memory_mib` allows. There are more where batches are small, so that every
    /// worker has an image, and where reading is slow. Default 2.
    pub queue: usize,
    /// Memory in MiB of batches that are being made or waiting, and of images that are being decoded, a half each; one batch and
    /// one image are always allowed. Decoders work with more, and `cache_mib` is beside it. 0 for 128 per worker, at least 1024. Default 0.
    pub memory_mib: usize,
    /// Whether the incomplete batch at the end of an epoch is left out. Default true. Source: DINO.
    pub drop_last: bool,
    /// Decoded images are kept in memory if all of them fit this many MiB. Default 256.
    pub cache_mib: usize,
    /// This process among `ranks`: it loads share number `rank` of each batch. Shares are contiguous and differ by at most one image.
    /// Default 0.
    pub rank: usize,
    /// Number of processes, and of shares, at most `batch_size`. Default 1.
    pub ranks: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            workers: 0,
            seed: 0,
            queue: 2,
            memory_mib: 0,
            drop_last: true,
            cache_mib: 256,
            rank: 0,
            ranks: 1,
        }
    }
}

impl LoaderConfig {
    /// `workers` for a pool.
    pub(super) fn pool_workers(&self) -> usize {
        workers_of_rank(self.workers, self.ranks)
    }

    /// Bytes of batches and of images that are being decoded.
    pub(in crate::data) fn memory(&self) -> usize {
        memory_bytes(self.memory_mib, worker_count(self.pool_workers()))
    }

    /// Bytes of the batches that are being made or waiting, where one has so many.
    pub(crate) fn open_bytes(&self, batch: u64) -> u64 {
        let all = batch.saturating_mul(self.open_batches() as u64);
        all.min(Budget::new(self.memory()).batches.full(batch))
    }

    /// Batches that are being made or waiting at a time: enough that every worker has a sample while one batch waits to be
    /// taken.
    pub(super) fn open_batches(&self) -> usize {
        let workers = worker_count(self.pool_workers());
        let share = self.batch_size / self.ranks.max(1);
        self.queue.max(1 + workers.div_ceil(share.max(1)))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// A value out of its range; the error names the key, the value and the range.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("batch_size", self.batch_size, 1, 1 << 20),
            ("workers", self.workers, 0, 1024),
            ("queue", self.queue, 1, 1024),
            ("memory_mib", self.memory_mib, 0, 1 << 20),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                let remedy = format!("give a whole number from {low} to {high}");
                return Err(Error::config(key, value, remedy));
            }
        }
        if self.rank >= self.ranks {
            let remedy = format!("must be below the number of ranks, {}", self.ranks);
            return Err(Error::config("rank", self.rank, remedy));
        }
        if self.batch_size < self.ranks {
            let remedy = format!(
                "must be at least the number of ranks, {}, each of which takes a share of every batch",
                self.ranks
            );
            return Err(Error::config("batch_size", self.batch_size, remedy));
        }
        Ok(())
    }
}
