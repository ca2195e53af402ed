//! Images with their masks and the predicted ones on one sheet.

use ibot::Result;
use ibot::data::decode::decode_rgb_in;
use ibot::data::{ImageSource as _, MaskedImages};
use ibot::embedding::{Embedder, Segmented};
use ibot::error::printable;
use ibot::eval::Confusion;
use image::{DynamicImage, RgbImage};

use super::drawing::{Captioned, class_colors, contact_sheet};
use super::model::ModelArgs;

/// Images in a row, three images each; and the side of an image.
const IMAGES: usize = 2;
const SIDE: u32 = 160;

/// An image that is shown.
pub struct Example {
    sample: usize,
    truth: Vec<u8>,
    predicted: Vec<Vec<u8>>,
}

impl Example {
    pub fn new(seen: Segmented<'_>) -> Self {
        Self {
            sample: seen.sample,
            truth: seen.truth.to_vec(),
            predicted: seen.predicted.to_vec(),
        }
    }
}

/// Each image as the model sees it, its mask, and the mask that classifier number `way` predicts, with the share of the pixels
/// that are right.
pub fn masks_sheet(
    model: &ModelArgs,
    embedder: &Embedder,
    images: &MaskedImages,
    examples: &[Example],
    way: usize,
    classifier: &str,
) -> Result<RgbImage> {
    let side = embedder.preprocessing().image_size as u32;
    let mut shown: Vec<(DynamicImage, String)> = Vec::new();
    for example in examples {
        let path = images.name(example.sample);
        let seen = embedder.seen(&decode_rgb_in(
            &path,
            model.pixels.max_pixels,
            model.range(),
        )?)?;
        let predicted = &example.predicted[way];
        let mut confusion = Confusion::default();
        confusion.add(&example.truth, predicted);
        let right = 100.0 * confusion.accuracy().unwrap_or(0.0);
        let name = printable(path.file_name().unwrap_or_default());
        shown.push((seen.into(), name));
        shown.push((class_colors(&example.truth, side).into(), "mask".to_owned()));
        let predicted = class_colors(predicted, side);
        shown.push((predicted.into(), format!("predicted: {right:.1} %")));
    }
    let captioned: Vec<Captioned<'_>> = shown
        .iter()
        .map(|(image, caption)| Captioned { image, caption })
        .collect();
    let title = format!("masks by patch features: {classifier}");
    Ok(contact_sheet(&title, &captioned, 3 * IMAGES, SIDE))
}
