//! Views: their ranges and rates, and that a seed gives the same ones for good.

use ibot::data::AugmentConfig;
use ibot::data::augment::Interpolation;
use ibot::data::crop::CropBox;
use ibot::data::loader::epoch_order;
use ibot::data::view::{Augmenter, Change, Jitter, View};
use ibot::masking::{MaskPolicy, MaskRatio};
use image::RgbImage;

use super::texture;

/// Views of an image of 640 x 480 pixels.
fn drawn(config: &AugmentConfig) -> Vec<View> {
    let size = [640, 480];
    (0..4000)
        .map(|index| View::new(config, 11, 2, index, 1, size))
        .collect()
}

#[test]
fn every_change_has_its_rate() {
    let views = drawn(&AugmentConfig::default());
    let rate =
        |is: &dyn Fn(&View) -> bool| views.iter().filter(|view| is(view)).count() as f64 / 4000.0;
    let first =
        |change| move |view: &View| view.jitter.as_ref().is_some_and(|j| j.order[0] == change);
    let rates = [
        ("flip", rate(&|view| view.flip), 0.5),
        ("jitter", rate(&|view| view.jitter.is_some()), 0.8),
        ("gray", rate(&|view| view.gray), 0.2),
        ("blur", rate(&|view| view.blur.is_some()), 0.5),
        ("solarize", rate(&|view| view.solarize), 0.2),
        ("hue first", rate(&first(Change::Hue)), 0.2),
        ("contrast first", rate(&first(Change::Contrast)), 0.2),
        // Independent of each other.
        (
            "flip and blur",
            rate(&|view| view.flip && view.blur.is_some()),
            0.25,
        ),
    ];
    for (name, actual, expected) in rates {
        // Standard deviation at most 0.008; five of them.
        assert!((actual - expected).abs() < 0.04, "{name}: {actual}");
    }
}

#[test]
fn every_draw_is_in_its_range() {
    let views = drawn(&AugmentConfig::default());
    let area = |view: &View| f64::from(view.area.width * view.area.height) / (640.0 * 480.0);
    let ratio = |view: &View| f64::from(view.area.width) / f64::from(view.area.height);
    let jitters = || views.iter().filter_map(|view| view.jitter.as_ref());
    let ranges: [(&str, Vec<f64>, [f64; 2]); 7] = [
        ("area", views.iter().map(area).collect(), [0.4, 1.0]),
        (
            "ratio",
            views.iter().map(ratio).collect(),
            [0.75, 4.0 / 3.0],
        ),
        (
            "sigma",
            views.iter().filter_map(|view| view.blur).collect(),
            [0.1, 2.0],
        ),
        (
            "brightness",
            jitters().map(|j| j.brightness).collect(),
            [0.6, 1.4],
        ),
        (
            "contrast",
            jitters().map(|j| j.contrast).collect(),
            [0.6, 1.4],
        ),
        (
            "saturation",
            jitters().map(|j| j.saturation).collect(),
            [0.8, 1.2],
        ),
        ("hue", jitters().map(|j| j.hue).collect(), [-0.1, 0.1]),
    ];
    for (name, values, [low, high]) in ranges {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Whole pixels round the crop; and the range is used nearly to its ends.
        let width = high - low;
        assert!(
            least > low - 0.005 && most < high + 0.005,
            "{name}: {least} to {most}"
        );
        assert!(
            least < low + 0.03 * width && most > high - 0.03 * width,
            "{name}: {least} to {most}"
        );
    }
    for View { area, .. } in &views {
        assert!(
            area.left + area.width <= 640 && area.top + area.height <= 480,
            "{area:?}"
        );
    }
}

/// `texture`, rendered whole as `change` of a view without any change says: `[3, 32, 32]`.
fn rendered(change: impl FnOnce(&mut View)) -> Vec<f32> {
    let config = AugmentConfig {
        image_size: 32,
        ..AugmentConfig::default()
    };
    let image = texture();
    let mut view = View {
        area: CropBox {
            left: 0,
            top: 0,
            width: image.width(),
            height: image.height(),
        },
        flip: false,
        jitter: None,
        gray: false,
        blur: None,
        solarize: false,
    };
    change(&mut view);
    let mut augmenter = Augmenter::new(&config);
    let planes = augmenter.render(&image, &view).unwrap();
    planes.values().to_vec()
}

#[test]
fn each_field_of_a_view_has_its_effect() {
    let plain = rendered(|_| {});
    let flipped = rendered(|view| view.flip = true);
    for (row, flipped) in plain.chunks_exact(32).zip(flipped.chunks_exact(32)) {
        assert!(row.iter().rev().eq(flipped));
    }
    let gray = rendered(|view| view.gray = true);
    assert_eq!(gray[..1024], gray[1024..2048]);
    assert_eq!(gray[..1024], gray[2048..]);
    assert_ne!(gray, plain);
    let solarized = rendered(|view| view.solarize = true);
    for (value, solarized) in plain.iter().zip(solarized) {
        let expected = if *value >= 128.0 {
            255.0 - value
        } else {
            *value
        };
        assert_eq!(solarized, expected);
    }
    // Total variation: a blur takes most of it away.
    let variation = |values: &[f32]| -> f32 {
        values
            .windows(2)
            .map(|pair| (pair[0] - pair[1]).abs())
            .sum()
    };
    let blurred = rendered(|view| view.blur = Some(2.0));
    assert!(variation(&blurred) < 0.6 * variation(&plain));
    // Contrast 0 leaves the mean gray of what came before it.
    let jittered = |order| {
        rendered(|view| {
            view.jitter = Some(Jitter {
                order,
                brightness: 0.5,
                contrast: 0.0,
                saturation: 1.0,
                hue: 0.25,
            });
        })
    };
    let (brightness, contrast) = (Change::Brightness, Change::Contrast);
    let (saturation, hue) = (Change::Saturation, Change::Hue);
    let mean_gray = jittered([contrast, saturation, hue, brightness])[0] * 2.0;
    let luma = |at: usize| 0.2989 * plain[at] + 0.587 * plain[1024 + at] + 0.114 * plain[2048 + at];
    let expected = (0..1024).map(luma).sum::<f32>() / 1024.0;
    assert!((mean_gray - expected).abs() < 0.1, "{mean_gray} {expected}");
    // A hue turned before it is taken away changes the mean gray.
    let turned = jittered([hue, contrast, saturation, brightness])[0] * 2.0;
    assert!((turned - expected).abs() > 1.0, "{turned} {expected}");
}

#[test]
fn one_pixel_and_extreme_images_give_views() {
    let config = AugmentConfig {
        image_size: 32,
        ..AugmentConfig::default()
    };
    let mut augmenter = Augmenter::new(&config);
    for (width, height) in [(1, 1), (1, 700), (900, 2), (3, 3)] {
        let image = RgbImage::from_pixel(width, height, image::Rgb([90, 90, 90]));
        for index in 0..50 {
            let view = View::new(&config, 0, 0, index, 0, [width, height]);
            let planes = augmenter.render(&image, &view).unwrap();
            assert!(
                planes
                    .values()
                    .iter()
                    .all(|value| (0.0..=255.0).contains(value))
            );
        }
        let planes = augmenter.eval_view(&image).unwrap();
        assert!(planes.values().iter().all(|value| *value == 90.0));
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    type Case<'a> = (&'a str, fn(&mut AugmentConfig));
    let cases: [Case; 9] = [
        ("augment.image_size = 0", |c| c.image_size = 0),
        ("augment.global_views = 0", |c| c.global_views = 0),
        ("augment.scale = [0.5, 0.4]", |c| c.scale = [0.5, 0.4]),
        ("augment.scale = [0.0, 1.0]", |c| c.scale[0] = 0.0),
        ("augment.flip = 1.5", |c| c.flip = 1.5),
        ("augment.flip = NaN", |c| c.flip = f64::NAN),
        ("augment.color_jitter.hue = 0.6", |c| {
            c.color_jitter.hue = 0.6;
        }),
        ("augment.blur.sigma = [-1.0, 2.0]", |c| {
            c.blur.sigma[0] = -1.0;
        }),
        ("augment.std = 0", |c| c.std[1] = 0.0),
    ];
    for (expected, change) in cases {
        let mut config = AugmentConfig::default();
        assert!(config.validate().is_ok());
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(
            message.starts_with(expected),
            "{message} instead of {expected}"
        );
        assert!(message.contains("give "), "{message}");
    }
    let text = "interpolation = 'bilinear'\nblur = { probability = 0.1 }";
    let config: AugmentConfig = toml::from_str(text).unwrap();
    assert_eq!(config.interpolation, Interpolation::Bilinear);
    assert_eq!(
        (config.blur.probability, config.blur.sigma),
        (0.1.into(), [0.1, 2.0])
    );
    assert!(toml::from_str::<AugmentConfig>("color_jitter = 1").is_err());
}

/// FNV-1a, 64 bits.
fn fnv(hash: u64, value: u64) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    value.to_le_bytes().into_iter().fold(hash, step)
}

/// Everything drawn, hashed exactly: it is whole numbers, or `+ - *` on random bits, and so the same on every machine.
/// Only crop boxes pass through `exp`, `ln` and `sqrt`, and are rounded to pixels after.
///
/// Pixels are not hashed: vector units of different width may round the resize differently. They are compared with
/// torchvision in `torchvision.rs` instead, and with each other for any number of workers in `loading.rs`.
#[test]
fn draws_are_fixed_for_good() {
    let config = AugmentConfig::default();
    let policy = MaskPolicy {
        ratio: MaskRatio::Range([0.1, 0.5]),
        probability: 0.5,
        ..MaskPolicy::default()
    };
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for sample in epoch_order(42, 3, 100) {
        hash = fnv(hash, sample as u64);
        for number in 0..2 {
            let view = View::new(&config, 42, 3, sample, number, [500, 375]);
            let CropBox {
                left,
                top,
                width,
                height,
            } = view.area;
            let mut words = vec![left, top, width, height]
                .into_iter()
                .map(u64::from)
                .collect::<Vec<_>>();
            words.extend([view.flip, view.gray, view.solarize].map(u64::from));
            words.push(view.blur.map_or(0, f64::to_bits));
            if let Some(jitter) = view.jitter {
                words.extend(jitter.order.map(|change| change as u64));
                let factors = [
                    jitter.brightness,
                    jitter.contrast,
                    jitter.saturation,
                    jitter.hue,
                ];
                words.extend(factors.map(f64::to_bits));
            }
            let mask = policy.mask(42, 3, sample, number, [14, 14]);
            words.extend(mask.into_iter().map(u64::from));
            hash = words.into_iter().fold(hash, fnv);
        }
    }
    assert_eq!(
        hash, 0x9072_fff7_597c_f519,
        "a run with the same seed draws otherwise than before: {hash:#018x}"
    );
}

/// Means of a whole pipeline run, so that an operation left out or applied twice is seen.
#[test]
fn pixel_means_are_fixed_within_a_level() {
    let config = AugmentConfig {
        image_size: 32,
        ..AugmentConfig::default()
    };
    let image = texture();
    let mut augmenter = Augmenter::new(&config);
    let mut means = Vec::new();
    for index in 0..6 {
        let view = View::new(&config, 42, 0, index, 0, [image.width(), image.height()]);
        let planes = augmenter.render(&image, &view).unwrap();
        for plane in planes.values().chunks_exact(32 * 32) {
            means.push(plane.iter().sum::<f32>() / 1024.0);
        }
    }
    let expected = [
        220.9, 102.8, 107.0, 68.5, 71.1, 99.0, 73.7, 53.0, 72.0, 118.5, 90.8, 145.4, 84.1, 65.2,
        99.4, 135.8, 110.8, 145.7,
    ];
    let is_near = |(actual, expected): (&f32, f32)| (actual - expected).abs() < 0.5;
    assert!(means.iter().zip(expected).all(is_near), "{means:.1?}");
}
