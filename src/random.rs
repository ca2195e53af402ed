//! Random numbers as a pure function of named counters: ChaCha8 keyed by (seed, epoch, index, stream).
//!
//! Every draw of the project comes from here, so a run repeats on any backend, number of threads or machine.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng};
use rayon::prelude::*;

/// A generator for one purpose; see [`Random::new`].
#[derive(Debug, Clone)]
pub struct Random {
    generator: ChaCha8Rng,
    is_blank: bool,
}

/// What a stream of random numbers is for. Two streams never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The order of the images in an epoch, by the index: 0 of all, 1 of tiles, 2 the keys of many, from 3 on those of windows. With
    /// 0, also which labeled images are held out, and the order of a linear probe's epochs.
    Shuffle,
    /// The augmentation of view number `.0`.
    View(u32),
    /// The patch mask of view number `.0`.
    Mask(u32),
    /// Initial parameters.
    Init,
    /// The seeds of clusters.
    Cluster,
    /// The demo's images.
    Demo,
    /// What training drops of view number `.0`; the epoch counts steps here.
    DropPath(u32),
    /// Which image is shown in the place of one that cannot be read, by that one's index.
    StandIn,
}

impl Stream {
    fn key(self) -> u64 {
        match self {
            Self::Shuffle => 1 << 32,
            Self::View(view) => (2 << 32) | u64::from(view),
            Self::Mask(view) => (3 << 32) | u64::from(view),
            Self::Init => 4 << 32,
            Self::Demo => 5 << 32,
            Self::Cluster => 8 << 32,
            Self::DropPath(view) => (6 << 32) | u64::from(view),
            Self::StandIn => 9 << 32,
        }
    }
}

impl Random {
    /// The generator of (seed, epoch, index, stream); equal arguments give equal numbers.
    pub fn new(seed: u64, epoch: u64, index: u64, stream: Stream) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key
            .chunks_exact_mut(8)
            .zip([seed, epoch, index, stream.key()])
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self::of(ChaCha8Rng::from_seed(key))
    }

    fn of(generator: ChaCha8Rng) -> Self {
        Self {
            generator,
            is_blank: false,
        }
    }

    /// A generator that fills with zeros, for parameters that are about to be loaded: ViT-S has 22 million.
    pub fn blank() -> Self {
        Self {
            is_blank: true,
            ..Self::new(0, 0, 0, Stream::Init)
        }
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n, without bias worth speaking of (n far below 2^53); 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Standard normal (Box-Muller, one value of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// `count` values of `draw`, in parallel pieces: piece i draws from ChaCha's stream i under a key drawn here.
    pub fn fill(&mut self, count: usize, draw: impl Fn(&mut Self) -> f64 + Sync) -> Vec<f32> {
        const PIECE: usize = 64 * 1024;
        let mut values = vec![0.0; count];
        if self.is_blank {
            return values;
        }
        let mut key = [0; 32];
        self.generator.fill_bytes(&mut key);
        values
            .par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(piece, values)| {
                let mut generator = ChaCha8Rng::from_seed(key);
                generator.set_stream(piece as u64);
                let mut random = Self::of(generator);
                values.fill_with(|| draw(&mut random) as f32);
            });
        values
    }

    /// Fisher-Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_pure_and_apart() {
        let draw = |stream| Random::new(7, 1, 2, stream).unit();
        assert_eq!(draw(Stream::View(0)), draw(Stream::View(0)));
        assert_ne!(draw(Stream::View(0)), draw(Stream::View(1)));
        assert_ne!(draw(Stream::View(0)), draw(Stream::Mask(0)));
    }
}
