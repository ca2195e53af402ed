//! What share of an image's patches to mask.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Share of an image's patches to mask: one number, or what to draw it from for every image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number such as 0.3, a pair [low, high] such as [0.1, 0.5], or a list such as \
                 [{ mean = 0.0 }, { mean = 0.3, spread = 0.2 }]"
)]
pub enum MaskRatio {
    /// The same share for every image.
    Fixed(f64),
    /// From `[low, high)`.
    Range([f64; 2]),
    /// From one of these, each being equally likely (`pred_ratio` and `pred_ratio_var` of the official code).
    Mixture(Vec<RatioRange>),
}

/// Shares within `spread` of `mean`, all equally likely.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatioRange {
    /// The middle (`pred_ratio` of the official code).
    pub mean: f64,
    /// Largest distance from it, at most `mean` and `1 - mean`; default 0 (`pred_ratio_var` of the official code).
    #[serde(default)]
    pub spread: f64,
}

impl MaskRatio {
    /// `[low, high]` of each part that a share may come from.
    fn parts(&self) -> Vec<[f64; 2]> {
        match self {
            Self::Fixed(ratio) => vec![[*ratio, *ratio]],
            Self::Range(bounds) => vec![*bounds],
            Self::Mixture(parts) => parts
                .iter()
                .map(|RatioRange { mean, spread }| [mean - spread, mean + spread])
                .collect(),
        }
    }

    /// Whether every part lies in 0..=1, and there is one.
    pub(super) fn is_possible(&self) -> bool {
        let parts = self.parts();
        // NaN is in no range.
        let fits =
            |&[low, high]: &[f64; 2]| (0.0..=1.0).contains(&low) && (low..=1.0).contains(&high);
        !parts.is_empty() && parts.iter().all(fits)
    }

    /// The mean share; 0 of an empty list.
    pub(super) fn mean(&self) -> f64 {
        let parts = self.parts();
        let middles = parts.iter().map(|[low, high]| (low + high) / 2.0);
        middles.sum::<f64>() / parts.len().max(1) as f64
    }

    /// The share of one image; 0 of an empty list.
    pub(super) fn draw(&self, random: &mut Random) -> f64 {
        let parts = self.parts();
        // One number for both the part and the place in it, so that the kind of ratio does not move later draws.
        let place = random.unit() * parts.len() as f64;
        match parts.get(place as usize) {
            Some([low, high]) => low + (high - low) * place.fract(),
            None => 0.0,
        }
    }
}

/// As in TOML.
impl std::fmt::Display for MaskRatio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(ratio) => write!(f, "{ratio:?}"),
            Self::Range(bounds) => write!(f, "{bounds:?}"),
            Self::Mixture(parts) => {
                let parts = parts.iter().map(|RatioRange { mean, spread }| {
                    format!("{{ mean = {mean:?}, spread = {spread:?} }}")
                });
                write!(f, "[{}]", parts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    const PART: RatioRange = RatioRange {
        mean: 0.3,
        spread: 0.2,
    };

    fn mixture(mean: f64, spread: f64) -> MaskRatio {
        MaskRatio::Mixture(vec![RatioRange { mean, spread }])
    }

    #[test]
    fn impossible_shares_are_told() {
        let impossible = [
            MaskRatio::Fixed(1.1),
            MaskRatio::Fixed(f64::NAN),
            MaskRatio::Range([0.5, 0.1]),
            MaskRatio::Range([-0.1, 0.1]),
            MaskRatio::Range([0.1, 1.1]),
            MaskRatio::Mixture(vec![]),
            mixture(0.1, 0.2),
            mixture(0.9, 0.2),
            mixture(0.3, -0.1),
            mixture(f64::NAN, 0.0),
            mixture(0.3, f64::NAN),
            mixture(0.5, f64::INFINITY),
        ];
        for ratio in impossible {
            assert!(!ratio.is_possible(), "{ratio}");
        }
        for ratio in [MaskRatio::Fixed(0.0), MaskRatio::Range([0.0, 1.0])] {
            assert!(ratio.is_possible(), "{ratio}");
        }
        // The bounds themselves are allowed; no two decimals that add up to 1 round to more.
        for percent in 0..=100 {
            let mean = f64::from(percent) / 100.0;
            let spread = f64::from(percent.min(100 - percent)) / 100.0;
            assert!(mixture(mean, spread).is_possible(), "{mean} {spread}");
        }
    }

    #[test]
    fn shares_lie_in_each_part_as_often() {
        let mut random = Random::new(9, 0, 0, Stream::Mask(0));
        let first = RatioRange {
            mean: 0.8,
            spread: 0.0,
        };
        let ratio = MaskRatio::Mixture(vec![first, PART, first]);
        let shares: Vec<f64> = (0..3000).map(|_| ratio.draw(&mut random)).collect();
        let inner: Vec<f64> = shares.into_iter().filter(|&share| share != 0.8).collect();
        // Binomial(3000, 1/3): standard deviation 26; five of them.
        assert!(inner.len().abs_diff(1000) < 130, "{}", inner.len());
        assert!(inner.iter().all(|share| (0.1..0.5).contains(share)));
        // Uniform in 0.1..0.5: standard deviation 0.115, of the mean of 1000 0.0037; five of them.
        let mean = inner.iter().sum::<f64>() / inner.len() as f64;
        assert!((mean - 0.3).abs() < 0.019, "{mean}");
        let low = inner.iter().filter(|&&share| share < 0.2).count();
        assert!(low.abs_diff(inner.len() / 4) < 70, "{low}");
        assert_eq!(MaskRatio::Mixture(vec![]).draw(&mut random), 0.0);
    }

    #[test]
    fn one_number_is_drawn_whatever_the_kind() {
        for ratio in [
            MaskRatio::Fixed(0.3),
            MaskRatio::Range([0.1, 0.5]),
            MaskRatio::Mixture(vec![PART; 5]),
            MaskRatio::Mixture(vec![]),
        ] {
            let mut drawn = Random::new(9, 0, 0, Stream::Mask(0));
            let mut other = drawn.clone();
            ratio.draw(&mut drawn);
            other.unit();
            assert_eq!(drawn.unit(), other.unit(), "{ratio}");
        }
    }

    #[test]
    fn toml_is_a_number_a_pair_or_a_list() {
        #[derive(Debug, Deserialize)]
        struct Keys {
            ratio: MaskRatio,
        }
        let read = |value: &str| {
            let keys = toml::from_str::<Keys>(&format!("ratio = {value}"));
            keys.map(|keys| keys.ratio)
                .map_err(|error| error.to_string())
        };
        let both = MaskRatio::Mixture(vec![
            RatioRange {
                mean: 0.0,
                spread: 0.0,
            },
            PART,
        ]);
        for (text, ratio) in [
            ("0.4", MaskRatio::Fixed(0.4)),
            ("0", MaskRatio::Fixed(0.0)),
            ("[0.1, 0.5]", MaskRatio::Range([0.1, 0.5])),
            ("[0, 1]", MaskRatio::Range([0.0, 1.0])),
            ("[{ mean = 0.3, spread = 0.2 }]", mixture(0.3, 0.2)),
            (
                "[{ mean = 0.0, spread = 0.0 }, { mean = 0.3, spread = 0.2 }]",
                both.clone(),
            ),
            ("[{ mean = 0 }, { mean = 0.3, spread = 0.2 }]", both),
            ("[]", MaskRatio::Mixture(vec![])),
        ] {
            assert_eq!(read(text).as_ref(), Ok(&ratio));
            // What an error message shows is TOML too.
            assert_eq!(read(&ratio.to_string()), Ok(ratio));
        }
        for text in [
            "\"much\"",
            "[0.1]",
            "[0.1, 0.2, 0.3]",
            "[{ mean = 0.1, var = 0.1 }]",
            "[{ spread = 0.1 }]",
            "[0.1, { mean = 0.1 }]",
            "{ mean = 0.1 }",
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains("a pair [low, high]"), "{message}");
        }
    }
}
