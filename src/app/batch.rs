//! Pictures as one batch of the model, and its results.

use rayon::prelude::*;

use crate::app::request::{Picture, PictureFeatures};
use crate::data::Pixels;
use crate::data::view::Augmenter;
use crate::embedding::Made;
use crate::error::{Error, Result};
use crate::files::model::Preprocessing;

/// Some pictures, ready for the device.
pub(super) struct Batch {
    /// Of each picture: whether it is among the pixels.
    readable: Vec<Result<()>>,
    /// Of those that are.
    pixels: Pixels,
}

impl Batch {
    /// Reads and resizes pictures on all cores; one that cannot be read does not affect the others.
    pub fn prepare(
        pictures: Vec<Picture>,
        preprocessing: &Preprocessing,
        max_pixels: u64,
        is_cancelled: impl Fn() -> bool + Sync,
    ) -> Self {
        let augment = preprocessing.augment();
        let view = |augmenter: &mut Augmenter, picture: Picture| {
            if is_cancelled() {
                return Err(Error::Stopped);
            }
            let mut view = vec![0; augment.view_len()];
            augmenter.eval_view(&picture.into_rgb(max_pixels, preprocessing.range)?)?;
            augmenter.write_levels(&mut view);
            Ok(view)
        };
        let views: Vec<Result<Vec<u8>>> = pictures
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

    /// The pixels, and their number of pictures.
    pub fn take_pixels(&mut self) -> (Pixels, usize) {
        let count = self.readable.iter().filter(|made| made.is_ok()).count();
        (std::mem::take(&mut self.pixels), count)
    }

    /// Whether the job was cancelled before all pictures were read.
    pub fn is_cut(&self) -> bool {
        self.readable
            .iter()
            .any(|made| matches!(made, Err(Error::Stopped)))
    }

    /// The results for each picture; `count` of them were readable.
    pub fn features(self, made: &Made, count: usize) -> Vec<Result<PictureFeatures>> {
        let mut at = 0;
        let mut next = || {
            let part = |all: &[f32]| {
                let len = all.len() / count.max(1);
                all[at * len..(at + 1) * len].to_vec()
            };
            let features = PictureFeatures {
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
