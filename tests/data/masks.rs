//! Segmentation masks: PNG files of each kind, alpha channels, and the part that the evaluation view shows.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ibot::data::decode::{decode_rgb, decode_rgba};
use ibot::data::view::Augmenter;
use ibot::data::{
    AugmentConfig, EvalFit, FolderConfig, IGNORE_INDEX, ImageFolder, ImageSource as _, LabelMap,
    MaskedImages, Masks, ValueRange,
};
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use png::{BitDepth, ColorType};

use super::{MAX_PIXELS, TempFolder};

/// A PNG file of 5 x 2 pixels with these packed samples.
fn write(path: &Path, color: ColorType, depth: BitDepth, samples: &[u8]) {
    let mut encoder = png::Encoder::new(File::create(path).unwrap(), 5, 2);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        // colors that have nothing to do with the indices
        encoder.set_palette(vec![200; 3 * 16]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(samples).unwrap();
}

#[test]
fn classes_are_the_samples_of_any_depth() {
    let folder = TempFolder::new();
    type Case<'a> = (&'a str, ColorType, BitDepth, &'a [u8], [u8; 10]);
    let cases: [Case<'_>; 6] = [
        (
            "gray",
            ColorType::Grayscale,
            BitDepth::Eight,
            &[0, 1, 2, 254, 255, 9, 8, 7, 6, 5],
            [0, 1, 2, 254, 255, 9, 8, 7, 6, 5],
        ),
        (
            "palette",
            ColorType::Indexed,
            BitDepth::Eight,
            &[0, 1, 2, 15, 3, 9, 8, 7, 6, 5],
            [0, 1, 2, 15, 3, 9, 8, 7, 6, 5],
        ),
        (
            "one bit",
            ColorType::Grayscale,
            BitDepth::One,
            &[0b1010_1000, 0b0001_0000],
            [1, 0, 1, 0, 1, 0, 0, 0, 1, 0],
        ),
        (
            "two bits",
            ColorType::Indexed,
            BitDepth::Two,
            &[0b0001_1011, 0b1100_0000, 0b0100_0000, 0b0100_0000],
            [0, 1, 2, 3, 3, 1, 0, 0, 0, 1],
        ),
        (
            "four bits",
            ColorType::Indexed,
            BitDepth::Four,
            &[0x01, 0x2f, 0x30, 0x98, 0x76, 0x50],
            [0, 1, 2, 15, 3, 9, 8, 7, 6, 5],
        ),
        (
            "sixteen bits",
            ColorType::Grayscale,
            BitDepth::Sixteen,
            &[
                0, 0, 0, 1, 0, 2, 0, 254, 0, 255, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5,
            ],
            [0, 1, 2, 254, 255, 9, 8, 7, 6, 5],
        ),
    ];
    for (name, color, depth, samples, expected) in cases {
        let path = folder.0.join(format!("{name}.png"));
        write(&path, color, depth, samples);
        let map = LabelMap::read(&path, MAX_PIXELS).unwrap();
        assert_eq!(
            (map.size, map.classes.as_slice()),
            ([5, 2], expected.as_slice()),
            "{name}"
        );
    }
}

#[test]
fn what_is_no_mask_is_refused() {
    let folder = TempFolder::new();
    let path = |name: &str| folder.0.join(name);
    write(
        &path("wide.png"),
        ColorType::Grayscale,
        BitDepth::Sixteen,
        &[1; 20],
    );
    RgbImage::new(5, 2).save(path("colors.png")).unwrap();
    RgbaImage::new(5, 2).save(path("alpha.png")).unwrap();
    RgbImage::new(5, 2).save(path("photo.jpg")).unwrap();
    std::fs::write(path("empty.png"), "").unwrap();
    write(
        &path("cut.png"),
        ColorType::Grayscale,
        BitDepth::Eight,
        &[3; 10],
    );
    let bytes = std::fs::read(path("cut.png")).unwrap();
    std::fs::write(path("cut.png"), &bytes[..bytes.len() - 20]).unwrap();
    GrayImage::new(50, 50).save(path("large.png")).unwrap();
    for (name, most, part) in [
        ("wide.png", MAX_PIXELS, "16-bit levels above 255"),
        ("colors.png", MAX_PIXELS, "gray or with a palette"),
        ("alpha.png", MAX_PIXELS, "gray or with a palette"),
        ("photo.jpg", MAX_PIXELS, "no intact PNG"),
        ("empty.png", MAX_PIXELS, "no intact PNG"),
        ("cut.png", MAX_PIXELS, "no intact PNG"),
        ("large.png", 100, "max_pixels"),
        ("missing.png", MAX_PIXELS, "missing.png"),
    ] {
        let message = LabelMap::read(&path(name), most).unwrap_err().to_string();
        assert!(
            message.contains(part) && message.contains(name),
            "{name}: {message}"
        );
    }
}

/// The view of a mask shows the same places as the view of the image: two flat colors with a straight edge, in each shape,
/// larger and smaller than the view.
#[test]
fn views_of_masks_show_what_views_of_images_show() {
    let config = AugmentConfig {
        image_size: 56,
        ..AugmentConfig::default()
    };
    let mut augmenter = Augmenter::new(&config);
    for size in [
        [64, 64],
        [200, 90],
        [91, 333],
        [30, 41],
        [224, 224],
        [97, 97],
    ] {
        let [width, height] = size;
        let is_figure = |x: u32, y: u32| 3 * x + 2 * y > 3 * width / 2 + height;
        let image = RgbImage::from_fn(width, height, |x, y| {
            Rgb([if is_figure(x, y) { 255 } else { 0 }; 3])
        });
        let classes = image
            .pixels()
            .map(|pixel| u8::from(pixel.0[0] > 0))
            .collect();
        let mask = LabelMap { size, classes }.seen(EvalFit::Margin, 56);
        let planes = augmenter.eval_view(&image).unwrap();
        let red = &planes.values()[..56 * 56];
        let mut compared = 0;
        for (at, (class, level)) in mask.iter().zip(red).enumerate() {
            // at the edge itself colors are mixed, as far as bicubic filters reach
            if *level < 40.0 || *level > 215.0 {
                assert_eq!(*class, u8::from(*level > 128.0), "{size:?}: pixel {at}");
                compared += 1;
            }
        }
        assert!(compared > 56 * 56 * 8 / 10, "{size:?}: {compared}");
        assert!(mask.contains(&0) && mask.contains(&1));
    }
}

#[test]
fn alpha_is_figure_and_ground_of_the_same_pixels() {
    let folder = TempFolder::new();
    let path = folder.0.join("image.png");
    let image = RgbaImage::from_fn(20, 30, |x, y| {
        Rgba([x as u8 * 9, y as u8 * 8, 7, if x < y { 128 } else { 127 }])
    });
    image.save(&path).unwrap();
    let decoded = decode_rgba(&path, MAX_PIXELS, ValueRange::Full).unwrap();
    assert_eq!(decoded, image);
    let map = LabelMap::of_alpha(&decoded);
    assert_eq!(map.size, [20, 30]);
    assert!(
        map.classes
            .iter()
            .enumerate()
            .all(|(at, class)| *class == u8::from(at % 20 < at / 20))
    );
    // the image that the model sees is on white, whether its alpha channel is asked for or not
    let scanned = ImageFolder::scan(&folder.0, &FolderConfig::default()).unwrap();
    let (masked, without) =
        MaskedImages::new(&scanned, Masks::Alpha, (EvalFit::Margin, 56), MAX_PIXELS).unwrap();
    assert_eq!(
        (masked.decode(0).unwrap(), without.len()),
        (decode_rgb(&path, MAX_PIXELS).unwrap(), 0)
    );
    assert_eq!(masked.take(0).unwrap(), map.seen(EvalFit::Margin, 56));
    assert!(masked.take(0).is_err(), "a mask is taken once");
    RgbImage::new(3, 3).save(&path).unwrap();
    let message = decode_rgba(&path, MAX_PIXELS, ValueRange::Full)
        .unwrap_err()
        .to_string();
    assert!(message.contains("no alpha channel"), "{message}");
}

#[test]
fn masks_are_found_by_the_name_of_their_image() {
    let folder = TempFolder::new();
    let (images, masks) = (folder.0.join("images"), folder.0.join("masks"));
    for (name, has_mask) in [("a/1.png", true), ("a/2.png", false), ("b.png", true)] {
        for (root, is_there) in [(&images, true), (&masks, has_mask)] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let level = if root == &masks { 3 } else { 200 };
            if is_there {
                GrayImage::from_pixel(40, 40, Luma([level]))
                    .save(path)
                    .unwrap();
            }
        }
    }
    let scanned = ImageFolder::scan(&images, &FolderConfig::default()).unwrap();
    let of = |scanned: &ImageFolder, masks: &Path| {
        MaskedImages::new(
            scanned,
            Masks::Folder(masks.to_path_buf()),
            (EvalFit::Margin, 8),
            MAX_PIXELS,
        )
    };
    let (masked, without) = of(&scanned, &masks).unwrap();
    assert_eq!((masked.len(), without), (2, vec![images.join("a/2.png")]));
    let masked = Arc::new(masked.part(&[1]));
    masked.decode(0).unwrap();
    assert_eq!(masked.take(0).unwrap(), [3; 64]);
    GrayImage::new(40, 41).save(masks.join("b.png")).unwrap();
    masked.decode(0).unwrap();
    let message = masked.take(0).unwrap_err().to_string();
    assert!(
        message.contains("40 x 41") && message.contains("40 x 40"),
        "{message}"
    );
    // of another kind, with the same name but for its ending
    std::fs::copy(images.join("b.png"), images.join("b.webp")).unwrap();
    let scanned = ImageFolder::scan(&images, &FolderConfig::default()).unwrap();
    let message = of(&scanned, &masks).err().unwrap().to_string();
    assert!(
        message.contains("masks/b.png: is the mask of two images"),
        "{message}"
    );
    let message = of(&scanned, &images.join("none"))
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("none/a/1.png"), "{message}");
    assert_eq!(IGNORE_INDEX, 255);
}
