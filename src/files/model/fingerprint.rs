//! Features of eight built-in images: they show whether two devices compute the same with one model file.

use std::path::Path;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use image::{Rgb, RgbImage};

use crate::backbone::Backbone;
use crate::data::views::view::Augmenter;
use crate::device::DeviceGuard;
use crate::error::{Error, Result, printable};
use crate::files::model::card::{ModelCard, Preprocessing};

/// Number of the built-in images.
pub const FINGERPRINT_IMAGES: usize = 8;
/// Their side in pixels.
const SIDE: u32 = 64;
/// Distance of fingerprints, over their largest entry, beyond which a device computes something else.
const MAX_DIFFERENCE: f32 = 0.05;

/// The built-in images: gradients, stripes, squares, rings and noise, from integers alone, so that they are the same
/// everywhere.
pub fn fingerprint_images() -> [RgbImage; FINGERPRINT_IMAGES] {
    std::array::from_fn(|kind| {
        RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let (fx, fy) = (x as i32 - 32, y as i32 - 32);
            let noise = |salt: u32| {
                let mixed = (x * 73 + y * 179 + salt * 283 + 1).wrapping_mul(2_654_435_761);
                ((mixed >> 15) ^ (mixed >> 7)) & 255
            };
            let value = match kind {
                0 => [4 * x, 4 * y, 128],
                1 => [255 - 4 * y, 64, 4 * x],
                2 => [255 * (x / 8 % 2), 200, 30],
                3 => [20, 255 * (y / 4 % 2), 90],
                4 => [
                    255 * ((x / 8 + y / 8) % 2),
                    255 * ((x / 16 + y / 16) % 2),
                    60,
                ],
                5 => [255 * u32::from(fx * fx + fy * fy < 400), 120, 4 * x],
                6 => [((fx * fx + fy * fy) / 4) as u32 & 255, 255 - 4 * x, 4 * y],
                _ => [noise(1), noise(2), noise(3)],
            };
            Rgb(value.map(|value| value.min(255) as u8))
        })
    })
}

/// The backbone's features of the built-in images, `[8, D]` row-major.
///
/// # Errors
/// [`crate::Error::Device`] where the device failed.
pub fn fingerprint<B: Backend, M: Backbone<B>>(
    backbone: &M,
    preprocessing: &Preprocessing,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let images = FINGERPRINT_IMAGES;
    first_features::<B, M>(backbone, preprocessing, images, guard, device)
}

/// The features of the first `count` built-in images, `[count, D]` row-major.
pub(crate) fn first_features<B: Backend, M: Backbone<B>>(
    backbone: &M,
    preprocessing: &Preprocessing,
    count: usize,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let augment = preprocessing.augment();
    let mut augmenter = Augmenter::new(&augment);
    let entries = augment.view_len();
    let mut pixels = vec![0.0; count * entries];
    for (image, out) in fingerprint_images().iter().zip(pixels.chunks_mut(entries)) {
        augmenter.eval_view(image)?;
        augmenter.write(out);
    }
    let side = preprocessing.image_size;
    let pixels = TensorData::new(pixels, [count, 3, side, side]);
    let features = backbone.embed(Tensor::<B, 4>::from_data(pixels, device));
    let data = guard.read::<B, _>(device, || features.into_data())?;
    Ok(data.iter::<f32>().collect())
}

/// How far the features `found` on `device`, a word for it, are off those in the card of the file at `path`, over their
/// largest entry. Where `found` has fewer images, the first ones are compared.
///
/// # Errors
/// [`Error::Device`] where that is more than 5 %: the device computes something else.
pub fn compare_fingerprint(
    path: &Path,
    card: &ModelCard,
    found: &[f32],
    device: &str,
) -> Result<f32> {
    let expected = card.fingerprint.get(..found.len()).unwrap_or_default();
    let difference = relative_distance(found, expected);
    if (0.0..MAX_DIFFERENCE).contains(&difference) {
        return Ok(difference);
    }
    Err(Error::Device(format!(
        "{}: features of the built-in images on this device ({device}) differ by {:.1} % from those in the file; \
         `ibot verify` finds the wrong operation",
        printable(path),
        100.0 * difference
    )))
}

fn relative_distance(found: &[f32], expected: &[f32]) -> f32 {
    if found.is_empty() || found.len() != expected.len() {
        return f32::INFINITY;
    }
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let distance = pairs.fold(0.0_f32, |max, (a, b)| match (a - b).abs() {
        distance if distance <= max => max,
        distance => distance, // also what is not a number
    });
    distance / largest.max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_compared_one_by_one() {
        assert_eq!(relative_distance(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(relative_distance(&[1.0], &[]), f32::INFINITY);
        assert_eq!(relative_distance(&[], &[]), f32::INFINITY);
        assert!(relative_distance(&[f32::NAN], &[1.0]).is_nan());
    }

    #[test]
    fn the_images_never_change() {
        let mut hasher = blake3::Hasher::new();
        for image in fingerprint_images() {
            hasher.update(&image);
        }
        let hash = hasher.finalize().to_hex();
        assert_eq!(&hash.as_str()[..16], "a00295c2a4684ddd");
    }
}
