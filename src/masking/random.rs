//! Masks of single patches, scattered uniformly.

use crate::random::Random;

/// Number of masked patches of `patches` at `ratio`: rounded half to even, as Python's `round`; at most `patches`.
///
/// A ratio outside 0..=1 counts as the nearer end.
pub fn masked_count(patches: usize, ratio: f64) -> usize {
    // A cast from float saturates, and NaN gives 0.
    ((patches as f64 * ratio).round_ties_even() as usize).min(patches)
}

/// A mask with exactly [`masked_count`] patches set, every such mask being equally likely.
///
/// # Shapes
/// `[N]` for N = `patches`; true where the patch is masked.
pub fn random_mask(random: &mut Random, patches: usize, ratio: f64) -> Vec<bool> {
    let mut mask = vec![false; patches];
    mask_scattered(random, &mut mask, masked_count(patches, ratio));
    mask
}

/// Sets `count` more patches of `mask`, or all that are left, every choice being equally likely.
pub(super) fn mask_scattered(random: &mut Random, mask: &mut [bool], count: usize) {
    let mut open: Vec<usize> = (0..mask.len()).filter(|&patch| !mask[patch]).collect();
    let patches = open.len();
    for place in 0..count.min(patches) {
        // Fisher-Yates, stopped once the masked patches are drawn.
        open.swap(place, place + random.below(patches - place));
        mask[open[place]] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn counts_round_half_to_even() {
        let counts = [
            (5, 0.5),
            (7, 0.5),
            (196, 0.3),
            (16, 0.0),
            (16, 1.0),
            (0, 0.5),
        ];
        let counts = counts.map(|(patches, ratio)| masked_count(patches, ratio));
        // Python: [round(5 * 0.5), round(7 * 0.5), round(196 * 0.3), ...]
        assert_eq!(counts, [2, 4, 59, 0, 16, 0]);
        assert_eq!(masked_count(16, 2.0), 16);
        assert_eq!(masked_count(16, -1.0), 0);
        assert_eq!(masked_count(16, f64::NAN), 0);
    }

    #[test]
    fn counts_are_exact_and_places_uniform() {
        let mut hits = [0; 20];
        for index in 0..4000 {
            let mask = random_mask(&mut Random::new(1, 0, index, Stream::Mask(0)), 20, 0.3);
            assert_eq!(mask.iter().filter(|&&masked| masked).count(), 6);
            for (hits, masked) in hits.iter_mut().zip(mask) {
                *hits += usize::from(masked);
            }
        }
        // Binomial(4000, 0.3): mean 1200, standard deviation 29; five of them.
        assert!(
            hits.iter().all(|hits| hits.abs_diff(1200) < 145),
            "{hits:?}"
        );
    }

    #[test]
    fn scattering_adds_to_what_is_there() {
        let mut random = Random::new(1, 0, 0, Stream::Mask(0));
        let mut hits = [0; 10];
        for _ in 0..2000 {
            let mut mask = [false; 10];
            mask[3] = true;
            mask_scattered(&mut random, &mut mask, 3);
            assert!(mask[3]);
            assert_eq!(mask.iter().filter(|&&masked| masked).count(), 4);
            for (hits, masked) in hits.iter_mut().zip(mask) {
                *hits += usize::from(masked);
            }
        }
        hits[3] = 667;
        // Binomial(2000, 1/3): mean 667, standard deviation 21; five of them.
        assert!(hits.iter().all(|hits| hits.abs_diff(667) < 105), "{hits:?}");
        let mut mask = [true, false];
        mask_scattered(&mut random, &mut mask, 5);
        assert_eq!(mask, [true, true]);
    }
}
