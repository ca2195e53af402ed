//! The values of images with more than 8 bits, counted, and the range that they ask for.

use crate::data::decode::value_range::ValueRange;
use crate::error::counted;

/// Values of 16 bits.
const VALUES: usize = 1 << 16;
/// Of so many values, one may lie outside of the range: a camera's dead pixels and stray reflections must not darken
/// everything else.
const OUTLIERS: u64 = 1000;
/// A range is called wide where the values fill less than one part of so many.
const WIDE: f64 = 8.0;

/// How often each value is there.
#[derive(Debug, Clone, Default)]
pub(in crate::data) struct ValueCounts {
    whole: Counts,
    floats: Counts,
    /// Floats above 1.
    above_one: u64,
    /// Floats below 0.
    negative: u64,
}

/// Counts of one kind of values.
#[derive(Debug, Clone)]
struct Counts {
    images: usize,
    total: u64,
    /// Of each whole number, none at first; a float counts as the nearest one.
    of: Vec<u64>,
    low: f64,
    high: f64,
}

/// The range of a folder, and why it is that one.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::data) struct Measured {
    pub range: ValueRange,
    pub why: String,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            images: 0,
            total: 0,
            of: Vec::new(),
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
        }
    }
}

impl Counts {
    fn add(&mut self, values: impl Iterator<Item = f64>) {
        self.of.resize(VALUES, 0);
        self.images += 1;
        for value in values {
            self.total += 1;
            self.low = self.low.min(value);
            self.high = self.high.max(value);
            // 0 for what is below, the last one for what is above
            self.of[usize::from(value.round() as u16)] += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        if other.images == 0 {
            return;
        }
        self.of.resize(VALUES, 0);
        self.images += other.images;
        self.total += other.total;
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        for (sum, count) in self.of.iter_mut().zip(&other.of) {
            *sum += count;
        }
    }

    /// The value that one of `OUTLIERS` lies above, or below.
    fn bounds(&self) -> [u32; 2] {
        let out = self.total / OUTLIERS;
        let numbered = (0_u32..).zip(&self.of);
        let low = first_beyond(out, numbered);
        let falling = (0..VALUES as u32).rev().zip(self.of.iter().rev());
        let high = first_beyond(out, falling);
        [low, high]
    }

    /// The number of bits, at least 8, that hold all values but the outliers.
    fn bits(&self) -> u32 {
        (u32::BITS - self.bounds()[1].leading_zeros()).max(8)
    }

    fn in_words(&self, what: &str) -> String {
        format!("the values of {} {what}", counted(self.images, "image"))
    }
}

/// The first value with more than `out` counts up to it.
fn first_beyond<'a>(out: u64, counts: impl Iterator<Item = (u32, &'a u64)>) -> u32 {
    let mut seen = 0;
    for (value, count) in counts {
        seen += count;
        if seen > out {
            return value;
        }
    }
    0
}

impl ValueCounts {
    /// Adds the values of 16 bits of an image.
    pub fn add_whole(&mut self, values: impl Iterator<Item = u16>) {
        self.whole.add(values.map(f64::from));
    }

    /// Adds the floats of an image; those that are not finite count for nothing.
    pub fn add_floats(&mut self, values: impl Iterator<Item = f64>) {
        let (mut above, mut negative) = (0, 0);
        let finite = values.filter(|value| value.is_finite());
        self.floats.add(finite.inspect(|value| {
            above += u64::from(*value > 1.0);
            negative += u64::from(*value < 0.0);
        }));
        self.above_one += above;
        self.negative += negative;
    }

    pub fn merge(mut self, other: &Self) -> Self {
        self.whole.merge(&other.whole);
        self.floats.merge(&other.floats);
        self.above_one += other.above_one;
        self.negative += other.negative;
        self
    }

    /// The range of all of them; none where nothing was counted.
    ///
    /// # Errors
    /// Whole numbers and floats that no one range fits.
    pub fn measured(&self) -> Result<Option<Measured>, String> {
        let whole = (self.whole.total > 0).then(|| self.of_whole());
        let floats = (self.floats.total > 0).then(|| self.of_floats());
        match (whole, floats) {
            (Some(whole), Some(floats)) if whole.range != floats.range => Err(format!(
                "holds images of 16 bits (range {}) and of floats (range {}), which no one range fits; give one with \
                 `range`, or put them into two folders",
                whole.range, floats.range
            )),
            (whole, floats) => Ok(whole.or(floats)),
        }
    }

    fn of_whole(&self) -> Measured {
        let counts = &self.whole;
        let bits = counts.bits();
        let white = (1_u32 << bits) - 1;
        let range = match bits {
            16 => ValueRange::Full,
            _ => ValueRange::Between([0.0, white.into()]),
        };
        let mut why = format!(
            "{bits} bits hold {}",
            counts.in_words("with more than 8 bits")
        );
        let [low, high] = counts.bounds();
        if f64::from(high - low) * WIDE < f64::from(white) && high > low {
            why += &format!(
                "; as those lie between {low} and {high}, `range` {low},{high} would give more contrast"
            );
        }
        Measured { range, why }
    }

    fn of_floats(&self) -> Measured {
        let counts = &self.floats;
        let (low, high) = (counts.low, counts.high);
        let out = counts.total / OUTLIERS;
        let is_in_words = counts.in_words("with floats");
        if self.negative <= out && self.above_one <= out {
            let range = if low >= 0.0 && high <= 1.0 {
                ValueRange::Full
            } else {
                ValueRange::Between([0.0, 1.0])
            };
            let why = format!("{is_in_words} lie between 0 and 1");
            return Measured { range, why };
        }
        if self.negative <= out && counts.bounds()[1] < VALUES as u32 - 1 {
            let bits = counts.bits();
            let white = (1_u32 << bits) - 1;
            return Measured {
                range: ValueRange::Between([0.0, white.into()]),
                why: format!("{bits} bits hold {is_in_words}"),
            };
        }
        // each such image is then left out by name, with this remedy
        Measured {
            range: ValueRange::Full,
            why: format!(
                "floats have no range of their own, and these go from {low} to {high}: give black and white with \
                 `range`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_whole(values: impl Iterator<Item = u16>) -> Measured {
        let mut counts = ValueCounts::default();
        counts.add_whole(values);
        counts.measured().unwrap().unwrap()
    }

    fn of_floats(values: &[f64]) -> Measured {
        let mut counts = ValueCounts::default();
        counts.add_floats(values.iter().copied());
        counts.measured().unwrap().unwrap()
    }

    #[test]
    fn whole_numbers_get_the_bits_that_hold_them() {
        for (most, white) in [
            (0, 255.0),
            (255, 255.0),
            (256, 511.0),
            (1023, 1023.0),
            (1024, 2047.0),
            (4095, 4095.0),
            (32767, 32767.0),
        ] {
            let range = of_whole((0..5000).map(|at| at % 2 * most)).range;
            assert_eq!(range, ValueRange::Between([0.0, white]), "{most}");
        }
        assert_eq!(of_whole(0..=u16::MAX).range, ValueRange::Full);
    }

    #[test]
    fn a_thousandth_of_outliers_changes_nothing() {
        let with = |hot: usize| {
            let values = (0..10_000_usize).map(move |at| {
                if at < hot {
                    u16::MAX
                } else {
                    (at % 4096) as u16
                }
            });
            of_whole(values).range
        };
        assert_eq!(with(10), ValueRange::Between([0.0, 4095.0]));
        assert_eq!(with(11), ValueRange::Full);
    }

    #[test]
    fn values_in_a_small_part_of_the_range_are_named() {
        let why = of_whole((0..10_000).map(|at| 7000 + at % 500)).why;
        assert!(why.contains("`range` 7000,7499"), "{why}");
        let why = of_whole((0..10_000).map(|at| at % 4096)).why;
        assert!(!why.contains("contrast"), "{why}");
    }

    #[test]
    fn floats_are_taken_for_what_they_are() {
        assert_eq!(of_floats(&[0.0, 0.5, 1.0]).range, ValueRange::Full);
        assert_eq!(
            of_floats(&[0.0, 900.5]).range,
            ValueRange::Between([0.0, 1023.0])
        );
        // whole numbers that were computed with
        assert_eq!(
            of_floats(&[0.0, 255.000_02]).range,
            ValueRange::Between([0.0, 255.0])
        );
        let mut overshoot = vec![0.5; 10_000];
        (overshoot[0], overshoot[1]) = (-0.01, 1.02);
        assert_eq!(of_floats(&overshoot).range, ValueRange::Between([0.0, 1.0]));
        for none in [[-3.25, 871.0], [0.0, 1e6]] {
            let measured = of_floats(&none);
            assert_eq!(measured.range, ValueRange::Full);
            assert!(measured.why.contains(&none[1].to_string()), "{measured:?}");
        }
        let mut nothing = ValueCounts::default();
        nothing.add_floats([f64::NAN, f64::INFINITY].into_iter());
        assert_eq!(nothing.measured(), Ok(None));
    }

    #[test]
    fn two_kinds_need_one_range() {
        let mut counts = ValueCounts::default();
        counts.add_whole(0..=u16::MAX);
        let mut floats = ValueCounts::default();
        floats.add_floats([0.0, 1.0].into_iter());
        let both = counts.merge(&floats);
        assert_eq!(both.measured().unwrap().unwrap().range, ValueRange::Full);
        let mut dark = ValueCounts::default();
        dark.add_whole((0..5000).map(|at| at % 4096));
        let message = dark.merge(&floats).measured().unwrap_err();
        assert!(message.contains("[0, 4095]") && message.contains("two folders"));
    }
}
