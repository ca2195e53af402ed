//! Pictures, prepared as the program does from which a model is.

use std::path::Path;

use ibot::embedding::seen;
use ibot::files::model::{ModelOptions, read_model};
use ibot::files::read_safetensors;
use image::RgbImage;

/// Compares the first image of a recorded case with what this crate makes of the case's picture for the model: a level at most
/// apart, as between this crate's resizing and Pillow's.
pub fn pictures_are_prepared_alike(model: &Path, case: &str) {
    let file = format!("tests/fixtures/parity/{case}.safetensors");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let recorded = read_safetensors(&recorded).unwrap();
    let [height, width, _] = recorded["picture"].shape[..] else {
        panic!("{:?}", recorded["picture"].shape);
    };
    let levels = recorded["picture"].values.iter();
    let levels = levels.map(|level| *level as u8).collect();
    let picture = RgbImage::from_raw(width as u32, height as u32, levels).unwrap();
    let preprocessing = read_model(model, &ModelOptions::default())
        .unwrap()
        .preprocessing;
    let shown = seen(&preprocessing, &picture).unwrap();
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
