//! Images as one batch of the model, and its results.

use rayon::prelude::*;

use crate::app::request::{ImageFeatures, ImageInput};
use crate::data::Pixels;
use crate::data::views::view::Augmenter;
use crate::embedding::Made;
use crate::error::{Error, Result};
use crate::files::model::Preprocessing;

/// Some images, ready for the device.
pub(super) struct Batch {
    /// Of each image: whether it is among the pixels.
    readable: Vec<Result<()>>,
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
        let views: Vec<Result<Vec<u8>>> = images
            .into_par_iter()
            .map_init(|| Augmenter::new(&augment), view)
            .collect();
        let mut levels = Vec::with_capacity(views.len() * augment.view_len());
        let readable = views
            .into_iter()
            .map(|view| view.map(|view| levels.extend(view)))
            .collect();
        let pixels = Pixels::from_levels(levels, &augment);
        Self { readable, pixels }
    }

    /// The pixels, and their number of images.
    pub fn take_pixels(&mut self) -> (Pixels, usize) {
        let count = self.readable.iter().filter(|made| made.is_ok()).count();
        (std::mem::take(&mut self.pixels), count)
    }

    /// Whether the job was cancelled before all images were read.
    pub fn is_cut(&self) -> bool {
        self.readable
            .iter()
            .any(|made| matches!(made, Err(Error::Stopped)))
    }

    /// The results for each image; `count` of them were readable.
    pub fn features(self, made: &Made, count: usize) -> Vec<Result<ImageFeatures>> {
        let mut at = 0;
        let mut next = || {
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
            let wrong = || Error::Embedding("the features are not finite numbers".into());
            is_finite.then_some(features).ok_or_else(wrong)
        };
        self.readable
            .into_iter()
            .map(|readable| readable.and_then(|()| next()))
            .collect()
    }
}
