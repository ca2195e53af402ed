//! Images that look alike: multi-index hashing (Norouzi, Punjani and Fleet 2012) over 63 bits finds those that may, their thumbnails
//! say which do.
//!
//! Two hashes with at most 8 different bits have at most 2 in one of four parts of 16 bits. So each image is kept under each part, and
//! one that is looked for looks at the 137 values of a part within 2 bits: work of 1 / 120 of comparing all pairs for hashes that
//! are spread evenly, and never a pair that is missed.

use std::sync::LazyLock;

use super::look::Look;

/// Most bits in which the hashes of copies differ.
const MOST_BITS: u32 = 8;
/// Parts of a hash, of 16 bits each.
const PARTS: usize = 4;

/// Differences of a part: none, one bit, two bits.
static FLIPS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let bit = |at: u32| 1 << at;
    let one = (0..16).map(bit);
    let two = (0..16).flat_map(|a| (0..a).map(move |b| bit(a) | bit(b)));
    std::iter::once(0).chain(one).chain(two).collect()
});

/// Images to look for others among.
pub struct NearIndex<'a> {
    kept: Vec<(usize, &'a Look)>,
    /// For each part and each of its values, twice the place in `kept`, plus 1 for the hash without edges.
    places: [Vec<Vec<u32>>; PARTS],
    least: f64,
}

impl<'a> NearIndex<'a> {
    /// For images of at least this similarity.
    pub fn new(least: f64) -> Self {
        Self {
            kept: Vec::new(),
            places: std::array::from_fn(|_| vec![Vec::new(); 1 << 16]),
            least,
        }
    }

    /// Keeps an image, with a number that says which.
    pub fn insert(&mut self, number: usize, look: &'a Look) {
        let place = 2 * self.kept.len() as u32;
        for (kind, hash) in (0..).zip(look.hashes) {
            for (part, places) in self.places.iter_mut().enumerate() {
                places[usize::from(part_of(hash, part))].push(place + kind);
            }
        }
        self.kept.push((number, look));
    }

    /// The number of an image that looks like this one, of those with the nearest part of the hash; the first of them.
    pub fn find(&self, look: &Look) -> Option<usize> {
        let mut near = self.near(look).map(|place| self.kept[place]);
        near.find(|(_, kept)| look.similarity(kept) >= self.least)
            .map(|(number, _)| number)
    }

    /// Places in `kept` of the images whose hashes are near, some of them several times.
    fn near(&self, look: &Look) -> impl Iterator<Item = usize> {
        let flips = FLIPS.iter();
        let parts = flips.flat_map(|flip| (0..PARTS).map(move |part| (*flip, part)));
        let kinds = (0..).zip(look.hashes);
        parts.flat_map(move |(flip, part)| {
            kinds.clone().flat_map(move |(kind, hash): (u32, u64)| {
                let value = usize::from(part_of(hash, part) ^ flip);
                let places = self.places[part][value].iter();
                places.filter_map(move |place| {
                    let at = (place / 2) as usize;
                    let of_kept = self.kept[at].1.hashes[(place % 2) as usize];
                    // both without their edges are no other pair than both whole
                    let is_pair = kind + place % 2 < 2;
                    (is_pair && (hash ^ of_kept).count_ones() <= MOST_BITS).then_some(at)
                })
            })
        })
    }
}

fn part_of(hash: u64, part: usize) -> u16 {
    (hash >> (16 * part)) as u16
}

/// Groups of images that look alike, each by its first one, which all others look like; in the order of the images. An image is in
/// at most one group.
pub fn groups<'a>(
    images: impl Iterator<Item = (usize, &'a Look)>,
    least: f64,
    mut goes_on: impl FnMut() -> bool,
) -> Vec<Vec<usize>> {
    let mut firsts = NearIndex::new(least);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, look) in images {
        if !goes_on() {
            break;
        }
        match firsts.find(look) {
            Some(group) => groups[group].push(number),
            None => {
                firsts.insert(groups.len(), look);
                groups.push(vec![number]);
            }
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::random::{Random, Stream};

    fn look(hashes: [u64; 2]) -> Look {
        let image = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * y) as u8; 3]));
        let mut look = Look::of(&image).unwrap().unwrap();
        look.hashes = hashes;
        look
    }

    /// All pairs, one by one, say the same as the index.
    #[test]
    fn the_index_misses_no_pair() {
        let mut random = Random::new(7, 0, 0, Stream::Shuffle);
        let mut word = || random.below(1 << 31) as u64 | (random.below(1 << 31) as u64) << 31;
        let first = word();
        // hashes in a crowd of one, some further from it than 8 bits
        let mut crowd = Vec::new();
        for at in 0..400 {
            let flips = (0..at % 14).fold(0u64, |flips, _| flips | 1 << (word() % 62));
            crowd.push(look([first ^ flips, word()]));
        }
        let near = |a: &Look, b: &Look| {
            let differ = |a: u64, b: u64| (a ^ b).count_ones();
            let pairs = [
                differ(a.hashes[0], b.hashes[0]),
                differ(a.hashes[1], b.hashes[0]),
                differ(a.hashes[0], b.hashes[1]),
            ];
            pairs.into_iter().any(|bits| bits <= MOST_BITS)
        };
        let mut index = NearIndex::new(0.9);
        crowd.iter().for_each(|look| index.insert(0, look));
        let mut found = 0;
        for asked in &crowd {
            let by_index: BTreeSet<usize> = index.near(asked).collect();
            let all = (0..crowd.len()).filter(|at| near(asked, &crowd[*at]));
            let one_by_one: BTreeSet<usize> = all.collect();
            assert_eq!(by_index, one_by_one);
            found += one_by_one.len();
        }
        let all = crowd.len() * crowd.len();
        assert!((all / 10..all / 2).contains(&found), "{found}");
    }

    #[test]
    fn groups_have_a_first_image_that_all_look_like() {
        let looks = [0u64, 0xff, 0xffff, 1 << 40].map(|hash| look([hash, u64::MAX >> 1]));
        let images = || looks.iter().enumerate();
        // 0xff is 8 bits from 0 and from 0xffff, which is 16 from 0
        assert_eq!(groups(images(), 0.9, || true), [vec![0, 1, 3]]);
        assert_eq!(
            groups(images().rev(), 0.9, || true),
            [vec![3, 0], vec![2, 1]]
        );
        assert!(groups(images(), 0.9, || false).is_empty());
        assert!(groups(images(), 1.1, || true).is_empty());
    }

    /// `cargo test --release --lib -- --ignored --nocapture time_of_groups`
    #[allow(clippy::print_stdout, reason = "says what it measured")]
    #[test]
    #[ignore = "prints a time"]
    fn time_of_groups() {
        let mut random = Random::new(3, 0, 0, Stream::Shuffle);
        let mut word = || random.below(1 << 31) as u64 | (random.below(1 << 31) as u64) << 31;
        for count in [10_000, 30_000, 100_000] {
            let looks: Vec<Look> = (0..count).map(|_| look([word(), word()])).collect();
            let started = std::time::Instant::now();
            let found = groups(looks.iter().enumerate(), 0.99, || true).len();
            let seconds = started.elapsed().as_secs_f64();
            println!("{count} images, {found} groups: {seconds:.2} s");
        }
    }
}
