//! Samples of more than 8 bits: counted, and stretched so that a range of them fills the range of their type.

use half::f16;
use image::DynamicImage;

use crate::data::decode::value_counts::ValueCounts;
use crate::data::decode::value_range::ValueRange;

/// Why an image with such floats is not read.
const NOT_FINITE: &str = "has values that are NaN or infinite; replace them";

/// The samples of an image that have more than 8 bits.
pub struct DeepSamples<'a> {
    pub values: DeepValues<'a>,
    /// Of a pixel.
    pub samples: usize,
    /// The first ones of a pixel, which are its color; alpha keeps its full range.
    pub colors: usize,
}

/// Samples pixel by pixel.
pub enum DeepValues<'a> {
    Whole(&'a mut [u16]),
    Half(&'a mut [f16]),
    Single(&'a mut [f32]),
    Double(&'a mut [f64]),
}

impl<'a> DeepSamples<'a> {
    /// Those of an image in memory; none for one of 8 bits.
    pub fn of_image(image: &'a mut DynamicImage) -> Option<Self> {
        let color = image.color();
        let samples = usize::from(color.channel_count());
        let values = match image {
            DynamicImage::ImageLuma16(image) => DeepValues::Whole(image),
            DynamicImage::ImageLumaA16(image) => DeepValues::Whole(image),
            DynamicImage::ImageRgb16(image) => DeepValues::Whole(image),
            DynamicImage::ImageRgba16(image) => DeepValues::Whole(image),
            DynamicImage::ImageRgb32F(image) => DeepValues::Single(image),
            DynamicImage::ImageRgba32F(image) => DeepValues::Single(image),
            _ => return None,
        };
        Some(Self {
            values,
            samples,
            colors: samples - usize::from(color.has_alpha()),
        })
    }

    /// Adds the colors to `counts`.
    pub fn count(&self, counts: &mut ValueCounts) {
        let (samples, colors) = (self.samples, self.colors);
        match &self.values {
            DeepValues::Whole(values) => counts.add_whole(colors_of(values, samples, colors)),
            DeepValues::Half(values) => {
                counts.add_floats(colors_of(values, samples, colors).map(f64::from));
            }
            DeepValues::Single(values) => {
                counts.add_floats(colors_of(values, samples, colors).map(f64::from));
            }
            DeepValues::Double(values) => counts.add_floats(colors_of(values, samples, colors)),
        }
    }

    /// Stretches the colors; those of [`ValueRange::Auto`] by what is measured on them alone.
    ///
    /// # Errors
    /// A float that is NaN or infinite; with [`ValueRange::Full`] one outside of 0 to 1.
    pub fn stretch(self, range: ValueRange) -> Result<(), String> {
        let range = match range {
            ValueRange::Auto => {
                let mut counts = ValueCounts::default();
                self.count(&mut counts);
                // of one image, so of one kind
                let measured = counts.measured().ok().flatten();
                measured.map_or(ValueRange::Full, |measured| measured.range)
            }
            known => known,
        };
        let ValueRange::Between(range) = range else {
            return self.check_floats();
        };
        let (samples, colors) = (self.samples, self.colors);
        let mut is_number = true;
        let mut float = |value: f64| {
            is_number &= value.is_finite();
            ValueRange::share(range, value)
        };
        match self.values {
            DeepValues::Whole(values) => {
                let white = f64::from(u16::MAX);
                let stretched =
                    |value: u16| (ValueRange::share(range, value.into()) * white).round() as u16;
                let table: Vec<u16> = (0..=u16::MAX).map(stretched).collect();
                change(values, samples, colors, |v| *v = table[usize::from(*v)]);
            }
            DeepValues::Half(values) => change(values, samples, colors, |v| {
                *v = f16::from_f64(float(f64::from(*v)));
            }),
            DeepValues::Single(values) => change(values, samples, colors, |v| {
                *v = float(f64::from(*v)) as f32;
            }),
            DeepValues::Double(values) => change(values, samples, colors, |v| *v = float(*v)),
        }
        if is_number {
            Ok(())
        } else {
            Err(NOT_FINITE.to_owned())
        }
    }

    /// Floats have no range of their own: only 0 to 1 has a meaning that all programs share.
    fn check_floats(&self) -> Result<(), String> {
        fn check(values: impl Iterator<Item = f64>) -> Result<(), String> {
            let (mut low, mut high) = (0.0_f64, 1.0_f64);
            for value in values {
                if !value.is_finite() {
                    return Err(NOT_FINITE.to_owned());
                }
                (low, high) = (low.min(value), high.max(value));
            }
            if (low, high) == (0.0, 1.0) {
                return Ok(());
            }
            Err(format!(
                "has floats outside the range 0 to 1 ({low} to {high}): give the values that are black and white with \
                 `range`, or save it with 16 bits"
            ))
        }
        let (samples, colors) = (self.samples, self.colors);
        match &self.values {
            DeepValues::Whole(_) => Ok(()),
            DeepValues::Half(values) => check(colors_of(values, samples, colors).map(f64::from)),
            DeepValues::Single(values) => check(colors_of(values, samples, colors).map(f64::from)),
            DeepValues::Double(values) => check(colors_of(values, samples, colors)),
        }
    }
}

/// The colors of each pixel.
fn colors_of<T: Copy>(values: &[T], samples: usize, colors: usize) -> impl Iterator<Item = T> {
    let pixels = values.chunks_exact(samples);
    pixels.flat_map(move |pixel| pixel[..colors].iter().copied())
}

/// Changes the colors of each pixel.
fn change<T>(values: &mut [T], samples: usize, colors: usize, mut change: impl FnMut(&mut T)) {
    let pixels = values.chunks_exact_mut(samples);
    pixels.for_each(|pixel| pixel[..colors].iter_mut().for_each(&mut change));
}
