//! Views as bytes: which ones are, how large they are, and that they lose nothing but what is rounded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ibot::data::augment::AugmentConfig;
use ibot::data::view::{Augmenter, View};
use ibot::data::{Batch, ImageSource, Loader, Pixels, Position, TrainViews, eval_batches};

use super::MadeImages;
use super::loading::{config, gated_images, loader, train_views, values};

/// Crops and flips, nothing else.
fn unmixed() -> AugmentConfig {
    let mut augment = train_views().augment;
    augment.color_jitter.probability = 0.0;
    augment.gray = 0.0;
    augment.blur.probability = 0.0.into();
    augment
}

fn first_batch(augment: AugmentConfig) -> Batch {
    let make = TrainViews {
        augment,
        ..train_views()
    };
    let source = Arc::new(MadeImages::new(10));
    let loader = Loader::new(source, make, &config(4, 2), Position::default());
    loader.unwrap().next_batch().unwrap()
}

/// The first view of the samples of a batch, as planes of 0 to 255 and normalized in f32.
fn rendered(augment: &AugmentConfig, batch: &Batch) -> [Vec<f32>; 2] {
    let source = MadeImages::new(10);
    let mut augmenter = Augmenter::new(augment);
    let (mut planes, mut normalized) = (Vec::new(), Vec::new());
    for &sample in &batch.samples {
        let image = source.decode(sample).unwrap();
        let size = [image.width(), image.height()];
        let view = View::new(augment, 5, 0, sample, 0, size);
        planes.extend_from_slice(augmenter.render(&image, &view).unwrap().values());
        let mut floats = vec![0.0; augment.view_len()];
        augmenter.write(&mut floats);
        normalized.extend(floats);
    }
    [planes, normalized]
}

fn is_levels(pixels: &Pixels) -> bool {
    matches!(pixels, Pixels::Levels { .. })
}

/// Fractions of levels stay, whatever a later version makes of bytes: a seed gives the same views for good.
#[test]
fn views_keep_fractions_unless_asked_otherwise() {
    let augment = train_views().augment;
    let batch = first_batch(augment.clone());
    assert!(!batch.views.iter().any(is_levels));
    let [planes, normalized] = rendered(&augment, &batch);
    assert!(planes.iter().any(|value| value.fract() != 0.0));
    assert_eq!(values(&batch.views[0], 16), normalized);
}

/// Without what leaves fractions, views travel as bytes by themselves: the same bits in a quarter of the memory.
#[test]
fn whole_levels_are_exact() {
    let augment = unmixed();
    assert!(augment.solarize.probability != 0.0.into());
    let batch = first_batch(augment.clone());
    assert!(batch.views.iter().all(is_levels));
    let [_, normalized] = rendered(&augment, &batch);
    assert_eq!(values(&batch.views[0], 16), normalized);
    let plain = first_batch(train_views().augment);
    for (bytes, floats) in batch.views.iter().zip(&plain.views) {
        assert_eq!(bytes.len(), floats.len());
        assert_eq!(bytes.bytes() * 4, floats.bytes());
    }
    // any of the three, for any kind of view, leaves fractions
    let mixes: [fn(&mut AugmentConfig); 3] = [
        |augment| augment.color_jitter.probability = 0.1,
        |augment| augment.gray = 0.1,
        |augment| {
            let others = toml::from_str("first = 0.0\nothers = 0.1\nlocal = 0.0").unwrap();
            augment.blur.probability = others;
        },
    ];
    for mix in mixes {
        let mut augment = unmixed();
        mix(&mut augment);
        assert!(!augment.has_whole_levels(), "{augment:?}");
    }
}

/// `uint8` moves a view by half a level at most, and nothing else of it.
#[test]
fn uint8_rounds_to_the_nearest_level() {
    let mut augment = train_views().augment;
    augment.uint8 = true;
    let batch = first_batch(augment.clone());
    let [planes, _] = rendered(&augment, &batch);
    let Pixels::Levels { levels, .. } = &batch.views[0] else {
        panic!("no bytes");
    };
    assert_eq!(levels.len(), planes.len());
    for (level, value) in levels.iter().zip(&planes) {
        assert!((f32::from(*level) - value).abs() <= 0.5, "{level}: {value}");
    }
    let plain = first_batch(train_views().augment);
    assert_eq!(
        (&batch.samples, &batch.masks),
        (&plain.samples, &plain.masks)
    );
}

#[test]
fn evaluation_views_are_bytes() {
    let augment = train_views().augment;
    let source = Arc::new(MadeImages::new(3));
    let mut batches = eval_batches(source, &augment, 3, 1).unwrap();
    let pixels = batches.next().unwrap().unwrap().pixels;
    assert!(is_levels(&pixels));
    assert_eq!(pixels.bytes(), 3 * augment.view_len());
}

/// Who asks for a batch that is at hand waits for none, and misses none.
#[test]
fn a_batch_is_taken_where_it_is_ready() {
    let (is_open, source) = gated_images();
    let mut found = loader(Arc::new(source), &config(2, 1), Position::default());
    assert_eq!(found.next_if_ready().unwrap(), None);
    is_open.store(true, Ordering::Relaxed);
    let mut expected = loader(
        Arc::new(MadeImages::new(4)),
        &config(2, 1),
        Position::default(),
    );
    assert_eq!(found.next_batch().unwrap(), expected.next_batch().unwrap());
    let ahead = loop {
        match found.next_if_ready().unwrap() {
            Some(batch) => break batch,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!(ahead, expected.next_batch().unwrap());
    assert_eq!(found.next_batch().unwrap(), expected.next_batch().unwrap());

    let broken = MadeImages::with(4, |_| panic!("no image"));
    let mut broken = loader(Arc::new(broken), &config(2, 1), Position::default());
    let error = loop {
        match broken.next_if_ready() {
            Err(error) => break error.to_string(),
            Ok(batch) => assert!(batch.is_none()),
        }
    };
    assert!(error.contains("panicked"), "{error}");
}
