//! Views against torchvision's functions, whose results `make_images.py` stores.

use fast_image_resize::pixels::U8x3;
use ibot::data::AugmentConfig;
use ibot::data::augment::Interpolation;
use ibot::data::crop::CropBox;
use ibot::data::photometric::Planes;
use ibot::data::view::{Augmenter, View};
use ibot::random::{Random, Stream};
use image::RgbImage;

use super::{fixture_json, texture};

const SIDE: usize = 16;

/// torchvision's values under `name`.
fn torchvision(name: &str) -> Vec<f32> {
    serde_json::from_value(fixture_json("torchvision.json")[name].clone()).unwrap()
}

/// Mean and largest distance, in levels of 255.
fn distance(actual: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(actual.len(), expected.len());
    let distances = actual.iter().zip(expected).map(|(a, e)| (a - e).abs());
    let (sum, largest) = distances.fold((0.0, 0.0f32), |(sum, max), d| (sum + d, max.max(d)));
    (sum / actual.len() as f32, largest)
}

#[test]
fn color_changes_and_blur_equal_torchvision() {
    let image = texture();
    let pixels: Vec<U8x3> = (0..SIDE * SIDE)
        .map(|at| U8x3::new(image.get_pixel((at % SIDE) as u32, (at / SIDE) as u32).0))
        .collect();
    type Change<'a> = (&'a str, fn(&mut Planes));
    let changes: [Change; 10] = [
        ("brightness 1.3", |planes| planes.brightness(1.3)),
        ("contrast 1.4", |planes| planes.contrast(1.4)),
        ("contrast 0.6", |planes| planes.contrast(0.6)),
        ("saturation 1.2", |planes| planes.saturation(1.2)),
        ("hue 0.08", |planes| planes.hue(0.08)),
        ("hue -0.1", |planes| planes.hue(-0.1)),
        ("gray", Planes::gray),
        ("solarize 128", |planes| planes.solarize(128.0)),
        ("blur 0.5", |planes| planes.blur(0.5)),
        ("blur 2.0", |planes| planes.blur(2.0)),
    ];
    let mut failures = Vec::new();
    for (name, change) in changes {
        let mut planes = Planes::new(SIDE);
        planes.load(&pixels, false);
        change(&mut planes);
        let (mean, largest) = distance(planes.values(), &torchvision(name));
        println!("{name}: mean {mean:.3}, largest {largest:.3} levels");
        // The reference is rounded to a tenth.
        if largest > 0.1 {
            failures.push(format!("{name}: mean {mean}, largest {largest}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn resized_crops_are_near_torchvision() {
    let image = texture();
    let areas = [
        (
            "35 x 27",
            CropBox {
                left: 3,
                top: 2,
                width: 35,
                height: 27,
            },
        ),
        (
            "10 x 9",
            CropBox {
                left: 8,
                top: 5,
                width: 10,
                height: 9,
            },
        ),
    ];
    let filters = [
        ("bilinear", Interpolation::Bilinear),
        ("bicubic", Interpolation::Bicubic),
    ];
    let mut failures = Vec::new();
    for (filter, interpolation) in filters {
        let config = AugmentConfig {
            image_size: SIDE,
            interpolation,
            ..AugmentConfig::default()
        };
        let mut augmenter = Augmenter::new(&config);
        for (size, area) in &areas {
            let view = View {
                area: *area,
                flip: false,
                jitter: None,
                gray: false,
                blur: None,
                solarize: false,
            };
            let name = format!("{filter} {size}");
            let planes = augmenter.render(&image, &view).unwrap();
            let (mean, largest) = distance(planes.values(), &torchvision(&name));
            println!("{name}: mean {mean:.3}, largest {largest:.3} levels");
            // Both keep 8 bits between rows and columns, in another order: one value in five is off by one.
            if largest > 1.1 || mean > 0.3 {
                failures.push(format!("{name}: mean {mean}, largest {largest}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn evaluation_view_is_near_torchvision() {
    let small = texture();
    let square = RgbImage::from_fn(120, 120, |x, y| *small.get_pixel(x / 4, y / 4));
    let config = AugmentConfig {
        image_size: 14,
        ..AugmentConfig::default()
    };
    let mut augmenter = Augmenter::new(&config);
    let planes = augmenter.eval_view(&square).unwrap();
    let (mean, largest) = distance(planes.values(), &torchvision("eval 14"));
    println!("eval: mean {mean:.3}, largest {largest:.3} levels");
    assert!(
        largest <= 1.1 && mean < 0.3,
        "mean {mean}, largest {largest}"
    );
    // A small square is taken whole: at its own size nothing changes.
    let config = AugmentConfig {
        image_size: 32,
        ..AugmentConfig::default()
    };
    let square = RgbImage::from_fn(32, 32, |x, y| *small.get_pixel(x.min(29), y.min(29)));
    let mut augmenter = Augmenter::new(&config);
    let planes = augmenter.eval_view(&square).unwrap();
    let red: Vec<f32> = square.pixels().map(|pixel| f32::from(pixel.0[0])).collect();
    assert_eq!(planes.values()[..32 * 32], red);
    let mut normalized = vec![0.0; config.view_len()];
    augmenter.write(&mut normalized);
    let expected = (red[5] / 255.0 - config.mean[0]) / config.std[0];
    assert!((normalized[5] - expected).abs() < 1e-5);
}

#[test]
fn random_crops_have_the_means_of_torchvision() {
    let config = AugmentConfig::default();
    for (width, height) in [(500, 375), (500, 100)] {
        let expected = torchvision(&format!("crop {width} x {height}"));
        let mut means = [0.0; 4];
        let draws = 20_000;
        for index in 0..draws {
            let mut random = Random::new(3, 0, index, Stream::View(0));
            let area = CropBox::draw(config.scale, config.ratio, &mut random, [width, height]);
            let [w, h] = [area.width, area.height].map(f64::from);
            let [full_width, full_height] = [width, height].map(f64::from);
            let values = [
                w * h / (full_width * full_height),
                (w / h).ln(),
                f64::from(area.left) / full_width,
                f64::from(area.top) / full_height,
            ];
            means = std::array::from_fn(|at| means[at] + values[at] / draws as f64);
        }
        // Standard deviations below 0.25: that of the difference of two means is below 0.0025; four of them.
        for (actual, expected) in means.iter().zip(&expected) {
            let distance = (actual - f64::from(*expected)).abs();
            assert!(
                distance < 0.01,
                "{width} x {height}: {means:?} instead of {expected:?}"
            );
        }
    }
}
