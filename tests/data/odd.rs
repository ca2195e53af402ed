//! Images that a usual decoder gets wrong or refuses, made by `make_odd_images.py`: each is shown as it was drawn, or
//! left out by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ibot::data::decode::decode_rgb;
use ibot::data::header::read_header;
use ibot::data::{FolderConfig, ImageFolder};
use image::{Rgb, RgbImage};

use super::{MAX_PIXELS, TempFolder, fixture};

/// JPEG at quality 97, in the middle of the quadrants; their edges run where chroma has fewer samples than luma.
const JPEG_LEVELS: i64 = 4;
const JPEG_MEAN_LEVELS: f64 = 6.0;

fn odd(name: &str) -> PathBuf {
    fixture("../odd").join(name)
}

fn table<T: serde::de::DeserializeOwned>(name: &str) -> BTreeMap<String, T> {
    serde_json::from_str(&fs::read_to_string(odd(name)).unwrap()).unwrap()
}

/// 32 x 16 pixels in four quadrants.
fn drawn(colors: [[u8; 3]; 4]) -> RgbImage {
    RgbImage::from_fn(32, 16, |x, y| Rgb(colors[(x / 16 + y / 8 * 2) as usize]))
}

fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let levels = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
    a.iter().zip(b.iter()).map(levels).sum::<f64>() / a.len() as f64
}

#[test]
fn odd_images_are_shown_as_they_were_drawn() {
    let shown: BTreeMap<String, [[u8; 3]; 4]> = table("shown.json");
    assert_eq!(shown.len(), 72);
    let mut failures = Vec::new();
    for (name, colors) in shown {
        let expected = drawn(colors);
        let header = read_header(&odd(&name), MAX_PIXELS);
        if !matches!(header, Ok(Some(header)) if header.pixels() == 32 * 16) {
            failures.push(format!("{name}: its header is {header:?}"));
        }
        let image = match decode_rgb(&odd(&name), MAX_PIXELS) {
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
            Ok(image) => image,
        };
        if image.dimensions() != (32, 16) {
            failures.push(format!("{name}: {:?}", image.dimensions()));
            continue;
        }
        // JPEG's own colors, in TIFF and Photoshop as well, are rounded.
        let is_rounded = name.ends_with("jpg") || name.starts_with("ycbcr");
        let centers = [(8, 4), (24, 4), (8, 12), (24, 12)];
        let worst = centers
            .iter()
            .flat_map(|(x, y)| {
                let pair = (image.get_pixel(*x, *y), expected.get_pixel(*x, *y));
                [0, 1, 2].map(|at| (i64::from(pair.0[at]) - i64::from(pair.1[at])).abs())
            })
            .max()
            .unwrap();
        let mean = difference(&image, &expected);
        let (most, most_mean) = if is_rounded {
            (JPEG_LEVELS, JPEG_MEAN_LEVELS)
        } else {
            (0, 0.0)
        };
        if worst > most || mean > most_mean {
            failures.push(format!("{name}: {worst} levels, {mean:.1} of mean"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn what_is_not_read_is_named_with_a_remedy() {
    let skipped: BTreeMap<String, Vec<String>> = table("skipped.json");
    assert_eq!(skipped.len(), 20);
    let folder = TempFolder::new();
    let mut failures = Vec::new();
    for (name, words) in &skipped {
        let path = folder.write(name, fs::read(odd(name)).unwrap());
        let error = read_header(&path, MAX_PIXELS).err();
        // What only the pixels tell is found by the loader.
        let error = error.or_else(|| decode_rgb(&path, MAX_PIXELS).err());
        let message = error.map(|error| error.to_string()).unwrap_or_default();
        if !words.iter().all(|word| message.contains(word.as_str())) {
            failures.push(format!("{name}: {message:?} instead of {words:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    folder.copy("good.png", "rgb.png");
    folder.write("notes.txt", "words");
    let images = ImageFolder::scan(&folder.0, &FolderConfig::default()).unwrap();
    let summary = images.summary();
    // The floats.
    assert_eq!(summary.images, 3, "{summary}");
    assert_eq!(summary.not_images, 1, "{summary}");
    assert_eq!(summary.skipped.len(), skipped.len() - 2, "{summary}");
}

/// As phones append images to panoramas, and as recovered files are run together.
#[test]
fn the_end_of_another_jpeg_is_not_that_of_the_first() {
    let folder = TempFolder::new();
    let whole = fs::read(fixture("rgb.jpg")).unwrap();
    let other = fs::read(fixture("gray.jpg")).unwrap();
    let expected = decode_rgb(&fixture("rgb.jpg"), MAX_PIXELS).unwrap();
    let endless = [&whole[..whole.len() - 2], &other].concat();
    let image = decode_rgb(&folder.write("endless.jpg", endless), MAX_PIXELS).unwrap();
    assert!(difference(&image, &expected) < 1.0);
    let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]);
    let half = (scan.unwrap() + whole.len()) / 2;
    let cut = folder.write("cut.jpg", [&whole[..half], &other].concat());
    let message = decode_rgb(&cut, MAX_PIXELS).unwrap_err().to_string();
    assert!(message.contains("truncated"), "{message}");
}

/// libjpeg paints what is missing gray, and warns; a warning is not heard in training.
#[test]
fn a_cut_odd_jpeg_is_an_error() {
    let folder = TempFolder::new();
    let mut failures = Vec::new();
    let names = [
        "scans_420.jpg",
        "scans_444_restart.jpg",
        "sampling_3x2.jpg",
        "arithmetic.jpg",
        "trailer_for_end.jpg",
    ];
    for name in names {
        let whole = fs::read(odd(name)).unwrap();
        let scan = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]);
        let start = scan.unwrap() + 14;
        let is_marker = |pair: &[u8]| matches!(pair, [0xff, 0xd9] | [0, 0x0b]);
        let end = start + whole[start..].windows(2).position(is_marker).unwrap();
        for cut in [start + 1, (start + end) / 2, end - 3, end] {
            let path = folder.write("cut.jpg", &whole[..cut]);
            match decode_rgb(&path, MAX_PIXELS) {
                Ok(_) => failures.push(format!("{name} decodes from {cut} bytes of {end}")),
                Err(error) if !error.to_string().contains("truncated") => {
                    failures.push(error.to_string());
                }
                Err(_) => {}
            }
        }
        // A copy that was given its length and never written to its end.
        let mut filled = whole[..(start + end) / 2].to_vec();
        filled.resize(whole.len() + 1000, 0);
        if decode_rgb(&folder.write("filled.jpg", filled), MAX_PIXELS).is_ok() {
            failures.push(format!("{name} decodes with zeros for its end"));
        }
        // Data of one bit's difference can be sound; of three bytes' they are not, in one place at least.
        let is_noticed = (start..end - 8).any(|at| {
            let mut damaged = whole.clone();
            damaged[at..at + 3].fill(0xff);
            decode_rgb(&folder.write("damaged.jpg", damaged), MAX_PIXELS).is_err()
        });
        if !is_noticed {
            failures.push(format!("{name}: no damage is noticed"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_png_without_its_end_is_read_if_its_pixels_are_there() {
    let folder = TempFolder::new();
    let whole = fs::read(fixture("rgb.png")).unwrap();
    let expected = decode_rgb(&fixture("rgb.png"), MAX_PIXELS).unwrap();
    // 12 bytes are the end; 4 more the checksum of the pixels.
    for missing in 1..13 {
        let path = folder.write("cut.png", &whole[..whole.len() - missing]);
        assert_eq!(
            decode_rgb(&path, MAX_PIXELS).unwrap(),
            expected,
            "{missing}"
        );
    }
    let path = folder.write("cut.png", &whole[..whole.len() - 17]);
    assert!(decode_rgb(&path, MAX_PIXELS).is_err());
}
