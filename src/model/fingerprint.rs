//! Features of eight built-in pictures: do two devices compute the same with one model file?

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use image::{Rgb, RgbImage};

use super::Preprocessing;
use crate::backbone::Backbone;
use crate::data::view::Augmenter;
use crate::device::DeviceGuard;
use crate::error::Result;

/// Number of the built-in pictures.
pub const FINGERPRINT_PICTURES: usize = 8;
/// Their side in pixels.
const SIDE: u32 = 64;

/// The built-in pictures: gradients, stripes, squares, rings and noise, from integers alone, so that they are the same
/// everywhere.
pub fn fingerprint_pictures() -> [RgbImage; FINGERPRINT_PICTURES] {
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

/// The backbone's features of the built-in pictures, `[8, D]` row-major.
///
/// # Errors
/// [`crate::Error::Device`] where the device failed.
pub fn fingerprint<B: Backend, M: Backbone<B>>(
    backbone: &M,
    preprocessing: &Preprocessing,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Vec<f32>> {
    fingerprint_of_first(FINGERPRINT_PICTURES, backbone, preprocessing, guard, device)
}

/// The same of the first `count` built-in pictures, `[count, D]`.
pub(crate) fn fingerprint_of_first<B: Backend, M: Backbone<B>>(
    count: usize,
    backbone: &M,
    preprocessing: &Preprocessing,
    guard: &DeviceGuard,
    device: &B::Device,
) -> Result<Vec<f32>> {
    let augment = preprocessing.augment();
    let mut augmenter = Augmenter::new(&augment);
    let entries = augment.view_len();
    let mut pixels = vec![0.0; count * entries];
    for (picture, out) in fingerprint_pictures()
        .iter()
        .zip(pixels.chunks_mut(entries))
    {
        augmenter.eval_view(picture)?;
        augmenter.write(out);
    }
    let side = preprocessing.image_size;
    let pixels = TensorData::new(pixels, [count, 3, side, side]);
    let features = backbone.embed(Tensor::<B, 4>::from_data(pixels, device));
    let data = guard.read::<B, _>(device, || features.into_data())?;
    Ok(data.iter::<f32>().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_never_change() {
        let mut hasher = blake3::Hasher::new();
        for picture in fingerprint_pictures() {
            hasher.update(&picture);
        }
        let hash = hasher.finalize().to_hex();
        assert_eq!(&hash.as_str()[..16], "a00295c2a4684ddd");
    }
}
