//! Images as one batch of the model, and its results.

use std::path::PathBuf;

use rayon::prelude::*;

use crate::app::request::{ImageFeatures, ImageInput};
use crate::data::Pixels;
use crate::data::views::view::Augmenter;
use crate::embedding::{Made, NOT_FINITE};
use crate::error::{Error, Result};
use crate::files::model::Preprocessing;

/// Bytes of images that are decoded at a time, at most, but for one that is larger by itself: without it, a machine with many
/// cores would hold as many scans.
const DECODED: u64 = 1 << 30;

/// Some images, ready for the device.
pub(super) struct Batch {
    /// Of each image, by what errors call it: whether it is among the pixels.
    readable: Vec<(PathBuf, Result<()>)>,
    /// Of those that are.
    pixels: Pixels,
}

impl Batch {
    /// Reads and resizes images on all cores; one that cannot be read does not affect the others.
    pub fn prepare(
        images: Vec<ImageInput>,
        preprocessing: &Preprocessing,
        max_pixels: u64,
        is_cancelled: impl Fn() -> bool + Sync,
    ) -> Self {
        let augment = preprocessing.augment();
        let view = |augmenter: &mut Augmenter, image: ImageInput| {
            if is_cancelled() {
                return Err(Error::Stopped);
            }
            let mut view = vec![0; augment.view_len()];
            augmenter.eval_view(&image.into_rgb(max_pixels, preprocessing.range)?)?;
            augmenter.write_levels(&mut view);
            Ok(view)
        };
        let mut levels = Vec::with_capacity(images.len() * augment.view_len());
        let mut readable = Vec::with_capacity(images.len());
        for images in at_once(images, max_pixels) {
            let views: Vec<(PathBuf, Result<Vec<u8>>)> = images
                .into_par_iter()
                .map_init(
                    || Augmenter::new(&augment),
                    |augmenter, image| (image.name(), view(augmenter, image)),
                )
                .collect();
            for (name, view) in views {
                readable.push((name, view.map(|view| levels.extend(view))));
            }
        }
        let pixels = Pixels::from_levels(levels, &augment);
        Self { readable, pixels }
    }

    /// The pixels, and their number of images.
    pub fn take_pixels(&mut self) -> (Pixels, usize) {
        let count = (self.readable.iter())
            .filter(|(_, made)| made.is_ok())
            .count();
        (std::mem::take(&mut self.pixels), count)
    }

    /// Whether the job was cancelled before all images were read.
    pub fn is_cut(&self) -> bool {
        self.readable
            .iter()
            .any(|(_, made)| matches!(made, Err(Error::Stopped)))
    }

    /// The results for each image; `count` of them were readable.
    pub fn features(self, made: &Made, count: usize) -> Vec<Result<ImageFeatures>> {
        let mut at = 0;
        let mut next = |name: PathBuf| {
            let part = |all: &[f32]| {
                let len = all.len() / count.max(1);
                all[at * len..(at + 1) * len].to_vec()
            };
            let features = ImageFeatures {
                cls: part(&made.cls),
                patches: part(&made.patches),
                attention: part(&made.attention),
            };
            at += 1;
            let parts = [&features.cls, &features.patches, &features.attention];
            let is_finite = parts
                .iter()
                .all(|part| part.iter().all(|value| value.is_finite()));
            let wrong = || Error::data(name, NOT_FINITE);
            is_finite.then_some(features).ok_or_else(wrong)
        };
        self.readable
            .into_iter()
            .map(|(name, readable)| readable.and_then(|()| next(name)))
            .collect()
    }
}

/// Images in parts, in order, each of at most [`DECODED`] bytes once it is decoded, or of one image.
fn at_once(images: Vec<ImageInput>, max_pixels: u64) -> Vec<Vec<ImageInput>> {
    if images.len() < 2 {
        return vec![images];
    }
    let bytes: Vec<u64> = images
        .par_iter()
        .map(|image| image.decoded_bytes(max_pixels))
        .collect();
    let mut parts: Vec<Vec<ImageInput>> = Vec::new();
    let mut held = 0;
    for (image, bytes) in images.into_iter().zip(bytes) {
        held += bytes;
        match parts.last_mut().filter(|_| held <= DECODED) {
            Some(part) => part.push(image),
            None => {
                parts.push(vec![image]);
                held = bytes;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, GrayImage};

    use super::*;

    #[test]
    fn an_image_with_features_that_are_not_finite_is_named() {
        let image = |name: &str, made| (PathBuf::from(name), made);
        let readable = vec![
            image("a.png", Ok(())),
            image("b.png", Err(Error::data("b.png", "damaged"))),
            image("c.png", Ok(())),
        ];
        let batch = Batch {
            readable,
            pixels: Pixels::default(),
        };
        let made = Made {
            cls: vec![1.0, 2.0, f32::NAN, 4.0],
            ..Made::default()
        };
        let found = batch.features(&made, 2);
        assert_eq!(found[0].as_ref().unwrap().cls, [1.0, 2.0]);
        assert_eq!(found[1].as_ref().unwrap_err().to_string(), "b.png: damaged");
        let error = found[2].as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with("c.png: its features are not finite"),
            "{error}"
        );
    }

    #[test]
    fn large_images_are_decoded_a_few_at_a_time() {
        // 300 MB each as red, green and blue
        let large = || ImageInput::from(DynamicImage::from(GrayImage::new(10_000, 10_000)));
        let small = || ImageInput::from(DynamicImage::from(GrayImage::new(1, 1)));
        let images = vec![large(), large(), large(), small(), large(), small()];
        let parts = at_once(images, u64::MAX);
        let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 2]);
        assert_eq!(at_once(vec![small()], 1).len(), 1);
        assert_eq!(at_once(Vec::new(), 1), [Vec::new()]);
    }
}
