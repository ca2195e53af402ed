//! Which patches the student does not see: uniformly random masks as a function of the seed; no tensors.
//!
//! Source: `stable_pretraining.methods.iBOT` 0.1.8 masks an exact share of the patches, `round(N * ratio)`, chosen
//! uniformly. Differs from the official code: that masks blocks, of a ratio drawn for every image.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Random, Stream};

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
    let mut order: Vec<usize> = (0..patches).collect();
    for place in 0..masked_count(patches, ratio) {
        // Fisher-Yates, stopped once the masked patches are drawn.
        order.swap(place, place + random.below(patches - place));
        mask[order[place]] = true;
    }
    mask
}

/// Share of an image's patches to mask: one number, or a pair to draw from uniformly for every image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MaskRatio {
    /// The same share for every image.
    Fixed(f64),
    /// From `[low, high)`.
    Range([f64; 2]),
}

impl MaskRatio {
    fn bounds(self) -> [f64; 2] {
        match self {
            Self::Fixed(ratio) => [ratio, ratio],
            Self::Range(bounds) => bounds,
        }
    }
}

/// How images are masked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskPolicy {
    /// Share of the patches masked; default 0.3. 0 masks nothing.
    #[serde(rename = "mask_ratio")]
    pub ratio: MaskRatio,
    /// Probability that an image is masked at all; default 1.
    #[serde(rename = "mask_probability")]
    pub probability: f64,
}

impl Default for MaskPolicy {
    fn default() -> Self {
        Self {
            ratio: MaskRatio::Fixed(0.3),
            probability: 1.0,
        }
    }
}

impl MaskPolicy {
    /// # Errors
    /// A ratio or probability outside 0..=1, or a range whose first number is the larger.
    pub fn validate(&self) -> Result<()> {
        let [low, high] = self.ratio.bounds();
        // NaN is in no range.
        if !(0.0..=1.0).contains(&low) || !(low..=1.0).contains(&high) {
            let value = match self.ratio {
                MaskRatio::Fixed(ratio) => ratio.to_string(),
                MaskRatio::Range(bounds) => format!("{bounds:?}"),
            };
            return Err(Error::config(
                "mask_ratio",
                value,
                "give a number from 0 to 1, or a pair [low, high] of such with low <= high",
            ));
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(Error::config(
                "mask_probability",
                self.probability,
                "give a number from 0 to 1",
            ));
        }
        Ok(())
    }

    /// The mask of one image, see [`MaskPolicy::mask`].
    ///
    /// # Shapes
    /// `[N]` for N = `patches`.
    pub fn draw(&self, random: &mut Random, patches: usize) -> Vec<bool> {
        // Both are drawn whatever the outcome, so that one setting does not move the draws of another.
        let is_masked = random.chance(self.probability);
        let [low, high] = self.ratio.bounds();
        let ratio = random.uniform(low, high);
        random_mask(random, patches, if is_masked { ratio } else { 0.0 })
    }

    /// The mask of view `view` of sample `index` in `epoch`.
    ///
    /// # Shapes
    /// `[N]` for N = `patches`.
    pub fn mask(
        &self,
        seed: u64,
        epoch: u64,
        index: usize,
        view: usize,
        patches: usize,
    ) -> Vec<bool> {
        let stream = Stream::Mask(view as u32);
        self.draw(&mut Random::new(seed, epoch, index as u64, stream), patches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(masked_count(16, f64::NAN), 0);
    }

    #[test]
    fn counts_are_exact_and_places_uniform() {
        let mut hits = [0; 20];
        for index in 0..4000 {
            let mask = MaskPolicy::default().mask(1, 0, index, 0, 20);
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
    fn range_and_probability_are_used() {
        let policy = MaskPolicy {
            ratio: MaskRatio::Range([0.1, 0.5]),
            probability: 0.5,
        };
        let counts: Vec<usize> = (0..2000)
            .map(|index| policy.mask(3, 0, index, 1, 100))
            .map(|mask| mask.iter().filter(|&&masked| masked).count())
            .collect();
        let masked: Vec<usize> = counts.iter().copied().filter(|&count| count > 0).collect();
        assert!(masked.len().abs_diff(1000) < 112, "{}", masked.len());
        assert!(masked.iter().all(|count| (10..=50).contains(count)));
        let mean = masked.iter().sum::<usize>() as f64 / masked.len() as f64;
        assert!((mean - 30.0).abs() < 1.9, "{mean}");
    }

    #[test]
    fn impossible_values_are_refused() {
        let ratios = [
            MaskRatio::Fixed(1.1),
            MaskRatio::Fixed(f64::NAN),
            MaskRatio::Range([0.5, 0.1]),
            MaskRatio::Range([-0.1, 0.1]),
        ];
        for ratio in ratios {
            let policy = MaskPolicy {
                ratio,
                ..MaskPolicy::default()
            };
            assert!(policy.validate().is_err(), "{ratio:?}");
        }
        let policy = MaskPolicy {
            probability: 2.0,
            ..MaskPolicy::default()
        };
        assert!(policy.validate().is_err());
        assert!(MaskPolicy::default().validate().is_ok());
    }

    #[test]
    fn ratio_is_a_number_or_a_pair() {
        let read = |text| toml::from_str::<MaskPolicy>(text);
        assert_eq!(
            read("mask_ratio = 0.4").unwrap().ratio,
            MaskRatio::Fixed(0.4)
        );
        assert_eq!(
            read("mask_ratio = [0.1, 0.5]").unwrap().ratio,
            MaskRatio::Range([0.1, 0.5])
        );
        assert_eq!(read("").unwrap(), MaskPolicy::default());
        assert!(read("ratio = 0.4").is_err());
    }
}
