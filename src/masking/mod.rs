//! Which patches are masked for the student, as a function of the seed: single patches or blocks; no tensors.
//!
//! Source: `stable_pretraining.methods.iBOT` 0.1.8 masks an exact share of the patches, `round(N * ratio)`, chosen
//! uniformly; that is the default. iBOT (arXiv 2111.07832) masks blocks, of a share drawn for every image, and leaves
//! about half of the images whole; `--pred_shape block --pred_ratio 0 0.3 --pred_ratio_var 0 0.2` of its code is here
//!
//! ```toml
//! mask_shape = "block"
//! mask_ratio = [{ mean = 0.0, spread = 0.0 }, { mean = 0.3, spread = 0.2 }]
//! mask_block_min = 16 # for 14 x 14 patches: (14 / 3)^2, the quotient rounded down
//! ```
//!
//! Differs from the official code: counts of blocks are exact, see [`block_mask`]; counts of single patches are rounded half to even,
//! where it truncates.

mod block;
mod random;
mod ratio;

use serde::{Deserialize, Serialize};

pub use self::block::block_mask;
pub use self::random::{masked_count, random_mask};
pub use self::ratio::{MaskRatio, RatioRange};
use crate::error::{Error, Result};
use crate::random::{Random, Stream};

/// How the masked patches lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskShape {
    /// Scattered uniformly, see [`random_mask`] (`pred_shape` "rand" of the official code).
    #[default]
    Random,
    /// In rectangles, see [`block_mask`] (`pred_shape` "block" of the official code).
    Block,
}

/// How images are masked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskPolicy {
    /// Fraction of the patches that is masked; 0 masks nothing. Default 0.3. Source: the reference.
    #[serde(rename = "mask_ratio")]
    pub ratio: MaskRatio,
    /// Probability that an image is masked at all. Default 1.0. Source: the reference.
    #[serde(rename = "mask_probability")]
    pub probability: f64,
    /// How the masked patches lie. Default random. Source: the reference.
    #[serde(rename = "mask_shape")]
    pub shape: MaskShape,
    /// Smallest area of a masked block, in patches. Default 4. Source: DINOv2.
    #[serde(rename = "mask_block_min")]
    pub block_min: usize,
    /// Smallest and largest ratio of a block's height to its width. Default `[0.3, 1 / 0.3]`. Source:
    /// `pred_aspect_ratio` of the official code.
    #[serde(rename = "mask_block_aspect")]
    pub block_aspect: [f64; 2],
    /// First epoch with masks, from 0. Default 0. Source: `pred_start_epoch` of the official code.
    #[serde(rename = "mask_start_epoch")]
    pub start_epoch: usize,
}

impl Default for MaskPolicy {
    fn default() -> Self {
        Self {
            ratio: MaskRatio::Fixed(0.3),
            probability: 1.0,
            shape: MaskShape::Random,
            block_min: 4,
            block_aspect: [0.3, 1.0 / 0.3],
            start_epoch: 0,
        }
    }
}

impl MaskPolicy {
    /// Whether the numbers can work.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        if !self.ratio.is_possible() {
            return Err(Error::config(
                "mask_ratio",
                &self.ratio,
                "give a number from 0 to 1, a pair [low, high] of such with low <= high, or a list of one or more \
                 { mean, spread } with spread >= 0, mean - spread >= 0 and mean + spread <= 1",
            ));
        }
        if !(0.0..=1.0).contains(&self.probability) {
            let remedy = "give a number from 0 to 1";
            return Err(Error::config("mask_probability", self.probability, remedy));
        }
        if self.block_min == 0 {
            let remedy = "must be at least 1, such as 4";
            return Err(Error::config("mask_block_min", self.block_min, remedy));
        }
        let [low, high] = self.block_aspect;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            let value = format!("{:?}", self.block_aspect);
            let remedy = "give a pair [low, high] with 0 < low <= high, such as [0.3, 3.3]";
            return Err(Error::config("mask_block_aspect", value, remedy));
        }
        Ok(())
    }

    /// Masked patches of an image in the mean, of `patches`.
    pub fn mean_count(&self, patches: usize) -> f64 {
        let count = match self.ratio {
            MaskRatio::Fixed(ratio) => masked_count(patches, ratio) as f64,
            MaskRatio::Range(_) | MaskRatio::Mixture(_) => patches as f64 * self.ratio.mean(),
        };
        self.probability * count
    }

    /// The mask of one image in an epoch with masks, see [`MaskPolicy::mask`].
    ///
    /// # Shapes
    /// `grid` is `[rows, columns]`; `[N]` for N = rows * columns, row by row.
    pub fn draw(&self, random: &mut Random, grid: [usize; 2]) -> Vec<bool> {
        // Both are drawn whatever the outcome, so that one setting does not move the draws of another.
        let is_masked = random.chance(self.probability);
        let ratio = self.ratio.draw(random);
        let ratio = if is_masked { ratio } else { 0.0 };
        match self.shape {
            MaskShape::Random => random_mask(random, grid[0] * grid[1], ratio),
            MaskShape::Block => block_mask(random, grid, ratio, self.block_min, self.block_aspect),
        }
    }

    /// Masks for B images in G global views, for callers that make views themselves; a function of seed and step, whatever
    /// `start_epoch` is.
    ///
    /// # Shapes
    /// `views_and_images` is `[G, B]`, `grid` is `[rows, columns]`; `[G B, N]`, view by view, true where the patch is
    /// masked.
    pub fn of_batch(
        &self,
        seed: u64,
        step: u64,
        [views, images]: [usize; 2],
        grid: [usize; 2],
    ) -> Vec<bool> {
        let mut masks = Vec::with_capacity(views * images * grid[0] * grid[1]);
        for view in 0..views {
            for image in 0..images {
                let stream = Stream::Mask(view as u32);
                let random = &mut Random::new(seed, step, image as u64, stream);
                masks.extend(self.draw(random, grid));
            }
        }
        masks
    }

    /// The mask of view `view` of sample `index` in `epoch`; nothing is masked before `start_epoch`.
    ///
    /// # Shapes
    /// `grid` is `[rows, columns]`; `[N]` for N = rows * columns, row by row; true where the patch is masked.
    pub fn mask(
        &self,
        seed: u64,
        epoch: u64,
        index: usize,
        view: usize,
        grid: [usize; 2],
    ) -> Vec<bool> {
        if epoch < self.start_epoch as u64 {
            return vec![false; grid[0] * grid[1]];
        }
        let stream = Stream::Mask(view as u32);
        self.draw(&mut Random::new(seed, epoch, index as u64, stream), grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: [usize; 2] = [14, 14];

    fn paper() -> MaskPolicy {
        let part = |mean, spread| RatioRange { mean, spread };
        MaskPolicy {
            ratio: MaskRatio::Mixture(vec![part(0.0, 0.0), part(0.3, 0.2)]),
            shape: MaskShape::Block,
            block_min: 16,
            ..MaskPolicy::default()
        }
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|&&masked| masked).count()
    }

    #[test]
    fn counts_are_exact_for_both_shapes() {
        for shape in [MaskShape::Random, MaskShape::Block] {
            for grid in [[1, 1], [1, 7], [14, 14], [6, 6], [3, 5]] {
                for step in 0..=50 {
                    let ratio = f64::from(step) / 50.0;
                    let policy = MaskPolicy {
                        ratio: MaskRatio::Fixed(ratio),
                        shape,
                        ..MaskPolicy::default()
                    };
                    for index in 0..10 {
                        let mask = policy.mask(2, 0, index, 0, grid);
                        assert_eq!(mask.len(), grid[0] * grid[1]);
                        let expected = masked_count(mask.len(), ratio);
                        assert_eq!(count(&mask), expected, "{shape:?} {grid:?} {ratio}");
                    }
                }
            }
        }
    }

    #[test]
    fn range_and_probability_are_used() {
        let policy = MaskPolicy {
            ratio: MaskRatio::Range([0.1, 0.5]),
            probability: 0.5,
            ..MaskPolicy::default()
        };
        let counts: Vec<usize> = (0..2000)
            .map(|index| count(&policy.mask(3, 0, index, 1, [10, 10])))
            .collect();
        let masked: Vec<usize> = counts.into_iter().filter(|&count| count > 0).collect();
        assert!(masked.len().abs_diff(1000) < 112, "{}", masked.len());
        assert!(masked.iter().all(|count| (10..=50).contains(count)));
        let mean = masked.iter().sum::<usize>() as f64 / masked.len() as f64;
        assert!((mean - 30.0).abs() < 1.9, "{mean}");
        assert_eq!(policy.mean_count(100), 15.0);
    }

    #[test]
    fn papers_mixture_leaves_half_of_the_images_whole() {
        let policy = paper();
        let counts: Vec<usize> = (0..2000)
            .map(|index| count(&policy.mask(4, 0, index, 0, GRID)))
            .collect();
        let masked: Vec<usize> = counts.into_iter().filter(|&count| count > 0).collect();
        // Binomial(2000, 0.5): standard deviation 22; five of them.
        assert!(masked.len().abs_diff(1000) < 112, "{}", masked.len());
        // 0.1 * 196 = 19.6 and 0.5 * 196 = 98
        assert!(masked.iter().all(|count| (20..=98).contains(count)));
        let ratios = || masked.iter().map(|&count| count as f64 / 196.0);
        let mean = ratios().sum::<f64>() / masked.len() as f64;
        // Uniform in 0.1..0.5: standard deviation 0.115, of the mean of 1000 0.0037; five of them.
        assert!((mean - 0.3).abs() < 0.019, "{mean}");
        // A quarter of them below 0.2: Binomial(1000, 0.25) has standard deviation 14.
        let low = ratios().filter(|&ratio| ratio < 0.2).count();
        assert!(low.abs_diff(masked.len() / 4) < 70, "{low}");
    }

    #[test]
    fn the_kind_of_ratio_does_not_move_later_draws() {
        let with = |ratio| MaskPolicy {
            ratio,
            ..MaskPolicy::default()
        };
        let part = RatioRange {
            mean: 0.3,
            spread: 0.0,
        };
        let fixed = with(MaskRatio::Fixed(0.3)).mask(1, 2, 3, 0, GRID);
        for ratio in [
            MaskRatio::Range([0.3, 0.3]),
            MaskRatio::Mixture(vec![part]),
            MaskRatio::Mixture(vec![part; 5]),
        ] {
            assert_eq!(with(ratio).mask(1, 2, 3, 0, GRID), fixed);
        }
    }

    #[test]
    fn nothing_is_masked_before_the_first_epoch() {
        for shape in [MaskShape::Random, MaskShape::Block] {
            let late = MaskPolicy {
                shape,
                start_epoch: 3,
                ..MaskPolicy::default()
            };
            let early = MaskPolicy {
                start_epoch: 0,
                ..late.clone()
            };
            for epoch in 0..3 {
                assert_eq!(late.mask(1, epoch, 0, 0, [3, 5]), [false; 15]);
            }
            for epoch in 3..6 {
                let mask = late.mask(1, epoch, 0, 0, GRID);
                assert_eq!(count(&mask), 59);
                assert_eq!(mask, early.mask(1, epoch, 0, 0, GRID));
            }
        }
    }

    #[test]
    fn masks_follow_from_seed_epoch_sample_and_view() {
        for shape in [MaskShape::Random, MaskShape::Block] {
            let policy = MaskPolicy {
                shape,
                ..MaskPolicy::default()
            };
            let mask = |seed, epoch, index, view| policy.mask(seed, epoch, index, view, GRID);
            let first = mask(1, 0, 0, 0);
            assert_eq!(first, mask(1, 0, 0, 0));
            for other in [
                mask(2, 0, 0, 0),
                mask(1, 1, 0, 0),
                mask(1, 0, 1, 0),
                mask(1, 0, 0, 1),
            ] {
                assert_ne!(first, other);
            }
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        type Change = fn(&mut MaskPolicy);
        let changes: [(&str, Change); 9] = [
            ("mask_ratio = 1.5:", |p| p.ratio = MaskRatio::Fixed(1.5)),
            ("mask_ratio = []:", |p| p.ratio = MaskRatio::Mixture(vec![])),
            ("mask_ratio = [{ mean = 0.1, spread = 0.25 }]:", |p| {
                let (mean, spread) = (0.1, 0.25);
                p.ratio = MaskRatio::Mixture(vec![RatioRange { mean, spread }]);
            }),
            ("mask_probability = 2:", |p| p.probability = 2.0),
            ("mask_probability = NaN:", |p| p.probability = f64::NAN),
            ("mask_block_min = 0:", |p| p.block_min = 0),
            ("mask_block_aspect = [0.0, 1.0]:", |p| {
                p.block_aspect = [0.0, 1.0];
            }),
            ("mask_block_aspect = [2.0, 1.0]:", |p| {
                p.block_aspect = [2.0, 1.0];
            }),
            ("mask_block_aspect = [1.0, inf]:", |p| {
                p.block_aspect = [1.0, f64::INFINITY];
            }),
        ];
        for (start, change) in changes {
            let mut policy = MaskPolicy::default();
            change(&mut policy);
            let message = policy.validate().unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        }
        for policy in [MaskPolicy::default(), paper()] {
            assert!(policy.validate().is_ok());
        }
    }

    #[test]
    fn toml_reads_back() {
        /// As the run's configuration holds it: keys after the list, in a table.
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Run {
            method: MaskPolicy,
            last: usize,
        }
        let range = MaskPolicy {
            ratio: MaskRatio::Range([0.1, 0.5]),
            start_epoch: 2,
            ..MaskPolicy::default()
        };
        for method in [MaskPolicy::default(), range, paper()] {
            let run = Run { method, last: 1 };
            let text = toml::to_string(&run).unwrap();
            assert_eq!(toml::from_str::<Run>(&text).unwrap(), run, "{text}");
            let table = toml::Table::try_from(&run).unwrap();
            assert_eq!(table.try_into::<Run>().unwrap(), run);
            // What an error message shows is TOML too.
            let text = format!("mask_ratio = {}", run.method.ratio);
            let policy: MaskPolicy = toml::from_str(&text).unwrap();
            assert_eq!(policy.ratio, run.method.ratio);
        }
        let text = toml::to_string(&paper()).unwrap();
        assert!(text.contains("mask_shape = \"block\""), "{text}");
        assert!(
            text.contains("mask_block_aspect = [0.3, 3.3333333333333335]"),
            "{text}"
        );
    }
}
