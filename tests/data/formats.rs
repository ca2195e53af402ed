//! Every kind of image file, compared with what `make_images.py` drew.

use std::fs;

use ibot::data::decode::decode_rgb;
use image::RgbImage;

use super::{MAX_PIXELS, TempFolder, fixture, fixture_json};

/// JPEG at quality 98, and its two color conversions for CMYK.
const JPEG_LEVELS: i64 = 4;

/// Centers of the four quadrants.
fn quadrants(image: &RgbImage) -> Vec<[i64; 3]> {
    [(8, 4), (24, 4), (8, 12), (24, 12)]
        .map(|(x, y)| image.get_pixel(x, y).0.map(i64::from))
        .to_vec()
}

#[test]
fn every_format_has_its_colors() {
    let expected = fixture_json("expected.json");
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 27, "{:?}", expected.keys());
    let mut failures = Vec::new();
    for (name, colors) in expected {
        let colors: Vec<[i64; 3]> = serde_json::from_value(colors.clone()).unwrap();
        let bytes = fs::read(fixture(name)).unwrap();
        let tolerance = if bytes[0] == 0xff { JPEG_LEVELS } else { 0 };
        match decode_rgb(&fixture(name), MAX_PIXELS) {
            Err(error) => failures.push(error.to_string()),
            Ok(image) if image.dimensions() != (32, 16) => {
                failures.push(format!("{name}: {:?}", image.dimensions()));
            }
            Ok(image) => {
                let actual = quadrants(&image);
                let pairs = actual.as_flattened().iter().zip(colors.as_flattened());
                let worst = pairs.map(|(a, b)| (a - b).abs()).max().unwrap();
                if worst > tolerance {
                    failures.push(format!("{name}: {actual:?} instead of {colors:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_cut_file_of_any_format_is_an_error() {
    let folder = TempFolder::new();
    let names = [
        "rgb.png",
        "rgb16.png",
        "rgb.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "rgb.webp",
        "rgb.bmp",
        "animated.gif",
        "rgb.tif",
    ];
    let mut failures = Vec::new();
    for name in names {
        let bytes = fs::read(fixture(name)).unwrap();
        for cut in [20, bytes.len() / 2, bytes.len() * 3 / 4] {
            let path = folder.write(name, &bytes[..cut]);
            // The first frame of the animation may well be complete.
            let may_be_complete = name == "animated.gif" && cut > bytes.len() / 2;
            if decode_rgb(&path, MAX_PIXELS).is_ok() && !may_be_complete {
                failures.push(format!(
                    "{name} decodes from {cut} of {} bytes",
                    bytes.len()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_jpeg_without_its_end_is_truncated() {
    let folder = TempFolder::new();
    let bytes = fs::read(fixture("rgb.jpg")).unwrap();
    let path = folder.write("cut.jpg", &bytes[..bytes.len() - 2]);
    let message = decode_rgb(&path, MAX_PIXELS).unwrap_err().to_string();
    assert!(
        message.contains("cut.jpg") && message.contains("truncated"),
        "{message}"
    );
    // What follows the end is of no interest.
    let path = folder.write("more.jpg", [&bytes[..], b"and more"].concat());
    assert!(decode_rgb(&path, MAX_PIXELS).is_ok());
}

#[test]
fn size_is_checked_before_decoding() {
    let error = decode_rgb(&fixture("bomb.png"), 100_000_000).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("100000 x 100000"), "{message}");
    assert!(message.contains("max_pixels"), "{message}");
    // The largest frame that a JPEG header can claim.
    let folder = TempFolder::new();
    let mut bytes = fs::read(fixture("rgb.jpg")).unwrap();
    let frame = bytes
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    bytes[frame + 5..frame + 9].fill(0xff);
    let path = folder.write("bomb.jpg", bytes);
    let message = decode_rgb(&path, 100_000_000).unwrap_err().to_string();
    assert!(message.contains("65535 x 65535"), "{message}");
    // The limit itself is allowed.
    assert!(decode_rgb(&fixture("rgb.png"), 32 * 16).is_ok());
    assert!(decode_rgb(&fixture("rgb.png"), 32 * 16 - 1).is_err());
}

#[test]
fn damaged_bytes_never_panic() {
    let folder = TempFolder::new();
    let names = [
        "rgb.png",
        "palette_alpha.png",
        "ycck.jpg",
        "rgba.webp",
        "rgb.bmp",
        "animated.gif",
        "rgb.tif",
    ];
    let mut outcomes = [0; 2];
    for name in names {
        let whole = fs::read(fixture(name)).unwrap();
        for at in 0..whole.len().min(120) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let path = folder.write("damaged", bytes);
            outcomes[usize::from(decode_rgb(&path, MAX_PIXELS).is_ok())] += 1;
        }
    }
    // Both happen: a flipped color is no damage, a flipped length is.
    assert!(outcomes.iter().all(|&count| count > 50), "{outcomes:?}");
}
