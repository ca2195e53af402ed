//! What an embedder reads: images of more than 8 bits in memory and in files, and a model file that is replaced.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ibot::app::{EmbedRequest, EmbedderConfig, EmbedderHandle, ImageInput};
use ibot::data::ValueRange;
use ibot::device::BackendChoice;
use ibot::error::Error;
use ibot::files::model::ModelOptions;
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};

use crate::tiny_model::{Scratch, image};
use crate::until;

fn config(model: &Path, range: ValueRange) -> EmbedderConfig {
    EmbedderConfig {
        device: BackendChoice::Flex.into(),
        options: ModelOptions {
            range,
            ..ModelOptions::default()
        },
        ..EmbedderConfig::new(model)
    }
}

/// The feature of one image, or why there is none.
fn feature(handle: &EmbedderHandle, image: ImageInput) -> ibot::Result<Vec<f32>> {
    let made = handle.embed(image).wait()?.remove(0)?;
    Ok(made.cls)
}

/// A value between 0 and 4095 at each place.
fn value(x: u32, y: u32) -> u16 {
    ((x * 97 + y * 61) % 4096) as u16
}

/// 12 bits of every kind of image.
fn of_12_bits() -> Vec<DynamicImage> {
    let (width, height) = (40, 36);
    vec![
        ImageBuffer::from_fn(width, height, |x, y| Luma([value(x, y)])).into(),
        ImageBuffer::from_fn(width, height, |x, y| LumaA([value(x, y), 40_000])).into(),
        ImageBuffer::from_fn(width, height, |x, y| {
            Rgb([value(x, y), value(y, x), 4095 - value(x, y)])
        })
        .into(),
        ImageBuffer::from_fn(width, height, |x, y| {
            Rgba([value(x, y), value(y, x), 7, (x * 900) as u16])
        })
        .into(),
    ]
}

/// 12 bits in memory are no black image: the same feature as that of the file.
#[test]
fn deep_images_in_memory_are_read_as_their_files() {
    let scratch = Scratch::new("deep");
    let model = scratch.model(1);
    for range in [
        ValueRange::Auto,
        ValueRange::Full,
        ValueRange::Between([0.0, 4095.0]),
        ValueRange::Between([500.0, 2000.0]),
    ] {
        let handle = config(&model, range).start().unwrap();
        for (at, image) in of_12_bits().into_iter().enumerate() {
            let path = scratch.path(&format!("{at}.png"));
            image.save(&path).unwrap();
            let of_file = feature(&handle, path.into()).unwrap();
            let in_memory = feature(&handle, image.into()).unwrap();
            assert_eq!(of_file, in_memory, "{range}, image {at}");
        }
    }
    // measured, 12 bits are those of the values: half of 4095 is a middle gray
    let gray =
        |value: u16| ImageBuffer::from_fn(40, 36, |x, _| Luma([if x < 20 { value } else { 4095 }]));
    let same = ImageBuffer::from_fn(40, 36, |x, _| Luma([if x < 20 { 128_u8 } else { 255 }]));
    let handle = config(&model, ValueRange::Auto).start().unwrap();
    let [deep, shallow] = [DynamicImage::from(gray(2056)), DynamicImage::from(same)]
        .map(|image| feature(&handle, image.into()).unwrap());
    assert_eq!(deep, shallow);
}

/// As float TIFF files: from 0 to 1, or by a range that is given; else an error of that image alone.
#[test]
fn floats_in_memory_need_a_range_that_is_known() {
    let scratch = Scratch::new("floats");
    let model = scratch.model(1);
    let floats = |scale: f32| {
        DynamicImage::from(ImageBuffer::from_fn(40, 36, |x, y| {
            Rgb([x, y, 20].map(|of| of as f32 * scale))
        }))
    };
    let bytes = DynamicImage::from(ImageBuffer::from_fn(40, 36, |x, y| {
        Rgb([x, y, 20].map(|of| (of * 5) as u8))
    }));
    let full = config(&model, ValueRange::Full).start().unwrap();
    let expected = feature(&full, bytes.into()).unwrap();
    let in_one = feature(&full, floats(5.0 / 255.0).into()).unwrap();
    assert_eq!(in_one, expected);
    let given = config(&model, ValueRange::Between([0.0, 51.0]));
    let given = given.start().unwrap();
    assert_eq!(feature(&given, floats(1.0).into()).unwrap(), expected);

    let not_a_number = DynamicImage::from(ImageBuffer::from_fn(4, 4, |_, _| Rgb([f32::NAN; 3])));
    let images = vec![floats(-1.0), floats(1.0 / 64.0), not_a_number];
    let made = full.embed(EmbedRequest::new(images)).wait().unwrap();
    let errors: Vec<String> = (made.iter())
        .map(|made| {
            made.as_ref()
                .map_or_else(ToString::to_string, |_| String::new())
        })
        .collect();
    assert!(
        errors[0].starts_with("an image in memory: has floats outside the range 0 to 1 (-39 to 1)")
            && errors[0].contains("`range`"),
        "{errors:?}"
    );
    assert_eq!(errors[1], "");
    assert!(errors[2].contains("NaN"), "{errors:?}");
}

/// After it was freed, the model is read again: another one in its place is no silent change of the features.
#[test]
fn a_model_file_that_changed_is_not_loaded_again() {
    let scratch = Scratch::new("changed");
    let (model, other) = (scratch.model(1), scratch.model(2));
    let kept = fs::read(&model).unwrap();
    let handle = config(&model, ValueRange::Auto).start().unwrap();
    let before = feature(&handle, image(0).into()).unwrap();
    let hash = handle.info().unwrap().hash;
    let unload = || {
        handle.unload();
        until("the model is freed", || !handle.memory().is_loaded);
    };

    fs::copy(&other, &model).unwrap();
    assert_eq!(
        feature(&handle, image(0).into()).unwrap(),
        before,
        "still in memory"
    );
    unload();
    let mut refused = vec![
        feature(&handle, image(0).into()).unwrap_err(),
        handle.load().wait().unwrap_err(),
        handle.rebuild(BackendChoice::NdArray).wait().unwrap_err(),
    ];
    for error in refused.drain(..) {
        let text = error.to_string();
        assert!(matches!(error, Error::Weights { .. }), "{text}");
        assert!(
            text.contains("model-1.safetensors: the file changed since it was loaded")
                && text.contains("start another embedder"),
            "{text}"
        );
    }
    assert!(!handle.memory().is_loaded);
    assert_eq!(
        handle.info().unwrap().hash,
        hash,
        "that of the features so far"
    );
    // another embedder takes it; this one goes on with the file that it knows
    let another = config(&model, ValueRange::Auto).start().unwrap();
    assert_ne!(feature(&another, image(0).into()).unwrap(), before);
    fs::write(&model, kept).unwrap();
    handle.rebuild(BackendChoice::Flex).wait().unwrap();
    assert_eq!(feature(&handle, image(0).into()).unwrap(), before);
}

/// Idle time frees a model too; a job in the middle of which that happens fails.
#[test]
fn a_job_does_not_go_on_with_another_model() {
    let scratch = Scratch::new("changed-job");
    let (model, other) = (scratch.model(1), scratch.model(2));
    let idle = EmbedderConfig {
        idle: Some(Duration::from_millis(50)),
        batch_size: 4,
        ..config(&model, ValueRange::Auto)
    };
    let handle = idle.start().unwrap();
    let paths = scratch.images(8).into_iter().cycle().take(20_000);
    let mut job = handle.embed(EmbedRequest::new(paths));
    until("the job began", || job.progress().done > 0);
    fs::copy(&other, &model).unwrap();
    handle.unload();
    assert!(matches!(job.wait(), Err(Error::Weights { .. })));
    let done = job.take_finished();
    assert!(!done.is_empty() && done.len() < 20_000, "{}", done.len());
}
