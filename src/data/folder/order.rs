//! The order of the images in an epoch: a function of seed, epoch and position.

use serde::{Deserialize, Serialize};

use crate::data::ImageSource;
use crate::random::{Random, Stream};

/// Sets of up to this many images keep their order of an epoch in memory, 4 bytes an image.
const LISTED: usize = 1 << 24;
/// Images that lie next to each other in a set and are read close to each other.
const BLOCK: usize = 4096;
/// Blocks whose images are mixed.
const WINDOW: usize = 16;
/// Rounds of the permutation: four make a good one of a good function (Luby and Rackoff 1988), twice as many of a quick one.
const ROUNDS: usize = 8;
/// Index of the generator for keys of all, and of the first window; 0 and 1 are taken ([`Stream::Shuffle`]).
const OF_ALL: u64 = 2;
const OF_WINDOWS: u64 = 3;

/// How the images of an epoch are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shuffle {
    /// Each image may come at any place.
    #[default]
    All,
    /// Blocks of 4096 neighboring images come in random order, and images are mixed within 16 such blocks: for disks and
    /// servers, which are quicker to read from one place than from many.
    Blocks,
}

/// The order of the images in an epoch.
#[derive(Debug)]
pub(in crate::data) enum Order {
    /// As a source gives it.
    Given(Vec<usize>),
    /// Of a small set: each image in its turn.
    Listed(Vec<u32>),
    /// Of a large one, in the same memory for any number of images.
    Keyed(Permutation),
    Blocks(Box<Blocks>),
}

impl Order {
    /// That of a source's images in an epoch.
    pub fn of(source: &dyn ImageSource, seed: u64, epoch: usize) -> Self {
        match source.order(seed, epoch) {
            Some(order) => Self::Given(order),
            None => Self::new(source.shuffle(), seed, epoch, source.len()),
        }
    }

    pub fn new(shuffle: Shuffle, seed: u64, epoch: usize, count: usize) -> Self {
        match shuffle {
            Shuffle::All => Self::of_all(seed, epoch, count),
            Shuffle::Blocks => Self::Blocks(Box::new(Blocks::new(seed, epoch, count))),
        }
    }

    fn of_all(seed: u64, epoch: usize, count: usize) -> Self {
        if count > LISTED {
            return Self::Keyed(Permutation::new(seed, epoch, OF_ALL, count));
        }
        let mut order: Vec<u32> = (0..count as u32).collect();
        // from the identity, not from the last epoch's order: a resumed run need not replay earlier epochs
        Random::new(seed, epoch as u64, 0, Stream::Shuffle).shuffle(&mut order);
        Self::Listed(order)
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Given(order) => order.len(),
            Self::Listed(order) => order.len(),
            Self::Keyed(permutation) => permutation.count,
            Self::Blocks(blocks) => blocks.count,
        }
    }

    /// The image at a position, which is less than their number.
    pub fn at(&self, position: usize) -> usize {
        match self {
            Self::Given(order) => order[position],
            Self::Listed(order) => order[position] as usize,
            Self::Keyed(permutation) => permutation.at(position),
            Self::Blocks(blocks) => blocks.at(position),
        }
    }
}

/// A permutation of the numbers below `count`: a Feistel network on an even number of bits, applied until the result is below
/// `count` (cycle walking; Black and Rogaway 2002).
#[derive(Debug)]
pub(in crate::data) struct Permutation {
    count: usize,
    /// Of each half.
    bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn new(seed: u64, epoch: usize, index: u64, count: usize) -> Self {
        let mut random = Random::new(seed, epoch as u64, index, Stream::Shuffle);
        let all = usize::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            bits: all.div_ceil(2).max(1),
            keys: [(); ROUNDS].map(|()| (random.unit() * (1u64 << 53) as f64) as u64),
        }
    }

    fn at(&self, position: usize) -> usize {
        let mut at = position as u64;
        loop {
            at = self.once(at);
            // within four times on average, as fewer than four times `count` numbers are permuted
            if (at as usize) < self.count {
                return at as usize;
            }
        }
    }

    fn once(&self, at: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        let (mut left, mut right) = (at >> self.bits, at & mask);
        for key in self.keys {
            (left, right) = (right, left ^ mixed(right ^ key) & mask);
        }
        left << self.bits | right
    }
}

/// The last steps of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on all bits.
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Blocks in random order, and their images mixed in windows of some blocks.
#[derive(Debug)]
pub(in crate::data) struct Blocks {
    seed: u64,
    epoch: usize,
    count: usize,
    order: Order,
    /// Place of the last block of the set, which may lack some images.
    short: usize,
    /// How many it lacks.
    lacks: usize,
}

impl Blocks {
    fn new(seed: u64, epoch: usize, count: usize) -> Self {
        let blocks = count.div_ceil(BLOCK);
        let order = Order::of_all(seed, epoch, blocks);
        let is_last = |place: &usize| order.at(*place) + 1 == blocks;
        Self {
            seed,
            epoch,
            count,
            short: (0..blocks).find(is_last).unwrap_or(0),
            lacks: blocks * BLOCK - count,
            order,
        }
    }

    fn at(&self, position: usize) -> usize {
        const FULL: usize = BLOCK * WINDOW;
        let of_short = self.short / WINDOW;
        // windows behind that of the short block begin that much earlier
        let is_behind = position + self.lacks >= (of_short + 1) * FULL;
        let moved = position + if is_behind { self.lacks } else { 0 };
        let (window, inside) = (moved / FULL, moved % FULL);
        let first = window * WINDOW;
        let blocks = WINDOW.min(self.order.len() - first);
        let has_short = window == of_short;
        let images = blocks * BLOCK - if has_short { self.lacks } else { 0 };
        let index = OF_WINDOWS + window as u64;
        let mixed = Permutation::new(self.seed, self.epoch, index, images).at(inside);
        // the short block counts as the last of its window
        let block = match (has_short, mixed / BLOCK) {
            (true, block) if block + 1 == blocks => self.short,
            (true, block) if first + block >= self.short => first + block + 1,
            (_, block) => first + block,
        };
        self.order.at(block) * BLOCK + mixed % BLOCK
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn all(order: &Order) -> Vec<usize> {
        (0..order.len())
            .map(|position| order.at(position))
            .collect()
    }

    fn keyed(seed: u64, epoch: usize, count: usize) -> Order {
        Order::Keyed(Permutation::new(seed, epoch, OF_ALL, count))
    }

    fn blocks(seed: u64, epoch: usize, count: usize) -> Order {
        Order::new(Shuffle::Blocks, seed, epoch, count)
    }

    #[test]
    fn each_image_comes_once() {
        let full = BLOCK * WINDOW;
        let counts = [
            1,
            2,
            3,
            5,
            16,
            17,
            1000,
            BLOCK,
            BLOCK + 1,
            full - 1,
            full,
            full + 1,
            2 * full + 7,
        ];
        for count in counts {
            for (name, make) in [
                ("keyed", keyed as fn(u64, usize, usize) -> Order),
                ("blocks", blocks),
            ] {
                for epoch in 0..4 {
                    let mut order = all(&make(9, epoch, count));
                    assert_eq!(order.len(), count, "{name}");
                    order.sort_unstable();
                    let whole = order.into_iter().eq(0..count);
                    assert!(whole, "{name}, {count} images, epoch {epoch}");
                }
            }
        }
    }

    #[test]
    fn seeds_and_epochs_differ_and_repeat() {
        for make in [keyed as fn(u64, usize, usize) -> Order, blocks] {
            let first = all(&make(1, 2, 10_000));
            assert_eq!(first, all(&make(1, 2, 10_000)));
            for other in [make(1, 3, 10_000), make(2, 2, 10_000)] {
                let same = all(&other)
                    .iter()
                    .zip(&first)
                    .filter(|(a, b)| a == b)
                    .count();
                // one is expected
                assert!(same < 10, "{same}");
            }
        }
    }

    #[test]
    fn keyed_orders_have_no_pattern() {
        let count = 100_000;
        let order = all(&keyed(3, 0, count));
        // the correlation of neighbors, and of an image with its place: 1 / sqrt(count) = 0.003 by chance
        let centered = |at: usize| at as f64 / count as f64 - 0.5;
        let correlation = |pairs: &mut dyn Iterator<Item = (usize, usize)>| {
            pairs.map(|(a, b)| centered(a) * centered(b)).sum::<f64>() / count as f64 * 12.0
        };
        let neighbors = correlation(&mut order.windows(2).map(|pair| (pair[0], pair[1])));
        let places = correlation(&mut order.iter().copied().enumerate());
        assert!(neighbors.abs() < 0.016, "{neighbors}");
        assert!(places.abs() < 0.016, "{places}");
        // how often the next image is the neighbor in the set: once by chance
        let next = order
            .windows(2)
            .filter(|pair| pair[0] + 1 == pair[1])
            .count();
        assert!(next < 10, "{next}");
    }

    #[test]
    fn blocks_stay_together() {
        let window = BLOCK * WINDOW;
        let count = 4 * window + 100;
        let order = all(&blocks(5, 1, count));
        let mut seen = std::collections::BTreeSet::new();
        let mut start = 0;
        while start < count {
            // 64 blocks and a short one: three full windows, one that lacks most of a block, and one of what is left
            let end = (start + window).min(count);
            let of_window: std::collections::BTreeSet<usize> = order[start..end]
                .iter()
                .map(|image| image / BLOCK)
                .collect();
            assert!(of_window.len() <= 2 * WINDOW, "{}", of_window.len());
            seen.extend(of_window);
            start = end;
        }
        assert_eq!(seen.len(), 65);
        let first: std::collections::BTreeSet<usize> =
            order[..1000].iter().map(|image| image / BLOCK).collect();
        assert!(
            first.len() <= WINDOW && first.len() > WINDOW / 2,
            "{first:?}"
        );
    }

    #[test]
    fn a_billion_images_take_no_memory() {
        let count = 1_000_000_000;
        for order in [Order::new(Shuffle::All, 7, 3, count), blocks(7, 3, count)] {
            let some: std::collections::BTreeSet<usize> =
                (0..10_000).map(|at| order.at(at * 99_991)).collect();
            assert_eq!(some.len(), 10_000);
            assert!(some.last() < Some(&count));
        }
    }

    /// docs/performance.md has what it prints.
    #[allow(clippy::print_stdout, reason = "says what it measured")]
    #[test]
    #[ignore = "measures"]
    fn orders_of_ten_million_and_a_billion() {
        for count in [10_000_000, 16_000_000, 100_000_000, 1_000_000_000] {
            for shuffle in [Shuffle::All, Shuffle::Blocks] {
                let start = std::time::Instant::now();
                let order = Order::new(shuffle, 7, 3, count);
                let made = start.elapsed();
                let start = std::time::Instant::now();
                let sum: usize = (0..1_000_000).map(|at| order.at(at)).sum();
                let each = start.elapsed() / 1_000_000;
                println!("{count} {shuffle:?}: made in {made:?}, {each:?} an image ({sum})");
            }
        }
    }

    #[test]
    fn small_sets_keep_the_order_of_earlier_versions() {
        let mut order: Vec<usize> = (0..1000).collect();
        Random::new(11, 4, 0, Stream::Shuffle).shuffle(&mut order);
        assert_eq!(all(&Order::new(Shuffle::All, 11, 4, 1000)), order);
    }
}
