//! Recorded models of other programs: what their description says, and their images.

use std::path::Path;

use ibot::backbone::Normalization;
use ibot::data::EvalFit;
use ibot::embedding::seen;
use ibot::files::model::{LoadedModel, ModelOptions, read_model};
use ibot::files::read_safetensors;
use image::RgbImage;

/// Checks the normalization that all recorded models have, and by which file it is known.
pub fn has_recorded_normalization(model: &LoadedModel, file: &str) {
    let expected = Normalization {
        mean: [0.4, 0.5, 0.6],
        std: [0.2, 0.25, 0.3],
    };
    assert_eq!(model.normalization.values, expected);
    assert_eq!(model.normalization.why, format!("from {file}"));
}

/// Reads a model for another side of its images: the share that is cut stays, which gives `fit`, and its positions are resampled.
pub fn read_at_side(model: &Path, image_size: usize, fit: EvalFit) -> LoadedModel {
    let options = ModelOptions {
        image_size: Some(image_size),
        ..ModelOptions::default()
    };
    let model = read_model(model, &options).unwrap();
    assert_eq!(model.preprocessing.fit, fit);
    model
}

/// Compares the first image of a recorded case with what this crate makes of the case's image for the model: a level at most
/// apart, as between this crate's resizing and Pillow's.
pub fn images_are_prepared_alike(model: &Path, case: &str) {
    let file = format!("tests/fixtures/parity/{case}.safetensors");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let recorded = read_safetensors(&recorded).unwrap();
    let [height, width, _] = recorded["image"].shape[..] else {
        panic!("{:?}", recorded["image"].shape);
    };
    let levels = recorded["image"].values.iter();
    let levels = levels.map(|level| *level as u8).collect();
    let image = RgbImage::from_raw(width as u32, height as u32, levels).unwrap();
    let preprocessing = read_model(model, &ModelOptions::default())
        .unwrap()
        .preprocessing;
    let shown = seen(&preprocessing, &image).unwrap();
    let [mean, std] = [preprocessing.mean, preprocessing.std];
    let pixels = preprocessing.image_size.pow(2);
    let expected = recorded["images"].values.chunks(pixels).take(3);
    let mut distances = Vec::new();
    for (color, plane) in expected.enumerate() {
        let levels = plane
            .iter()
            .map(|value| 255.0 * (value * std[color] + mean[color]));
        let found = shown.pixels().map(|pixel| f32::from(pixel.0[color]));
        distances.extend(
            levels
                .zip(found)
                .map(|(expected, found)| (expected - found).abs()),
        );
    }
    let largest = distances.iter().copied().fold(0.0, f32::max);
    let sum: f32 = distances.iter().sum();
    let mean = sum / distances.len() as f32;
    println!("{case}: mean {mean:.3}, largest {largest:.3} levels");
    assert!(
        largest < 1.1 && mean < 0.3,
        "{case}: mean {mean}, largest {largest}"
    );
}
