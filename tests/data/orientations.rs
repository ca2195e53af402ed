//! All eight orientations of EXIF, in each place where files have them: what is shown is upright.

use std::fs;

use ibot::data::decode::decode_rgb;
use ibot::data::header::read_header;
use image::RgbImage;
use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};

use super::mutations::crc;
use super::{MAX_PIXELS, TempFolder, fixture, texture};

/// What a camera that was held so stores: the image that EXIF's turn makes upright again.
fn stored(upright: &RgbImage, orientation: u8) -> RgbImage {
    match orientation {
        1 => upright.clone(),
        2 => flip_horizontal(upright),
        3 => rotate180(upright),
        4 => flip_vertical(upright),
        5 => flip_horizontal(&rotate90(upright)),
        6 => rotate270(upright),
        7 => flip_horizontal(&rotate270(upright)),
        8 => rotate90(upright),
        _ => unreachable!(),
    }
}

/// EXIF data of one entry, of 16 or 32 bits.
fn exif(orientation: u8, is_little_endian: bool, is_long: bool) -> Vec<u8> {
    let number = |value: u32, bytes: usize| {
        if is_little_endian {
            value.to_le_bytes()[..bytes].to_vec()
        } else {
            value.to_be_bytes()[4 - bytes..].to_vec()
        }
    };
    let width = if is_long { 4 } else { 2 };
    let mut value = number(orientation.into(), width);
    value.resize(4, 0);
    [
        if is_little_endian {
            b"II".to_vec()
        } else {
            b"MM".to_vec()
        },
        number(42, 2),
        number(8, 4),
        number(1, 2),
        number(0x112, 2),
        number(if is_long { 4 } else { 3 }, 2),
        number(1, 4),
        value,
        number(0, 4),
    ]
    .concat()
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    [
        &(data.len() as u32).to_be_bytes()[..],
        &body,
        &crc(&body).to_be_bytes(),
    ]
    .concat()
}

/// The PNG file with a chunk before (`is_behind` false) or behind its pixels.
fn with_chunk(png: &[u8], chunk: &[u8], is_behind: bool) -> Vec<u8> {
    let kind = if is_behind { b"IEND" } else { b"IDAT" };
    let at = png.windows(4).position(|four| four == kind).unwrap() - 4;
    [&png[..at], chunk, &png[at..]].concat()
}

/// The WebP file with EXIF data, which needs the extended form.
fn with_exif(webp: &[u8], image: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let padding = &[0][..data.len() % 2];
        [kind, &(data.len() as u32).to_le_bytes()[..], data, padding].concat()
    };
    let mut extended = vec![8, 0, 0, 0];
    for size in [image.width(), image.height()] {
        extended.extend(&(size - 1).to_le_bytes()[..3]);
    }
    let body = [
        b"WEBP".to_vec(),
        chunk(b"VP8X", &extended),
        webp[12..].to_vec(),
        chunk(b"EXIF", exif),
    ];
    chunk(b"RIFF", &body.concat())
}

/// As ImageMagick writes EXIF data into a text of a PNG file.
fn raw_profile(exif: &[u8], name: &str) -> Vec<u8> {
    let digits: String = exif.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<&str> = digits
        .as_bytes()
        .chunks(72)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let text = format!("\n{name}\n{:8}\n{}\n", exif.len(), lines.join("\n"));
    [
        format!("Raw profile type {name}\0").as_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

fn encoded(image: &RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn every_orientation_is_followed_wherever_it_is_written() {
    let folder = TempFolder::new();
    let upright = texture();
    let mut failures = Vec::new();
    for orientation in 1..=8 {
        let stored = stored(&upright, orientation);
        let png = encoded(&stored, image::ImageFormat::Png);
        let webp = encoded(&stored, image::ImageFormat::WebP);
        for (is_little_endian, is_long) in
            [(true, false), (true, true), (false, false), (false, true)]
        {
            let exif = exif(orientation, is_little_endian, is_long);
            let headed = [b"Exif\0\0", exif.as_slice()].concat();
            let text = |name| png_chunk(b"tEXt", &raw_profile(&headed, name));
            let chunk = png_chunk(b"eXIf", &exif);
            for (place, bytes) in [
                ("before.png", with_chunk(&png, &chunk, false)),
                ("behind.png", with_chunk(&png, &chunk, true)),
                ("text.png", with_chunk(&png, &text("exif"), false)),
                ("app1.png", with_chunk(&png, &text("APP1"), true)),
                ("plain.webp", with_exif(&webp, &stored, &exif)),
                ("headed.webp", with_exif(&webp, &stored, &headed)),
            ] {
                let path = folder.write(place, bytes);
                // behind the pixels of a PNG file a header is not looked for
                let (turn, size) = match place {
                    "behind.png" | "app1.png" => (1, stored.dimensions()),
                    _ => (orientation, upright.dimensions()),
                };
                let header = read_header(&path, MAX_PIXELS).unwrap().unwrap();
                let found = (header.orientation.to_exif(), (header.width, header.height));
                if found != (turn, size) {
                    failures.push(format!(
                        "{place}: the header says {found:?}, not {turn}, {size:?}"
                    ));
                }
                match decode_rgb(&path, MAX_PIXELS) {
                    Ok(image) if image == upright => {}
                    Ok(_) => failures.push(format!(
                        "{place}: {orientation}, little endian {is_little_endian}, 32 bits {is_long}"
                    )),
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The fixtures have 16 bits; here are 32 in the same place.
#[test]
fn an_orientation_of_32_bits_is_followed_in_jpeg_files() {
    let folder = TempFolder::new();
    for orientation in 1..=8_u8 {
        let name = format!("orientation_{orientation}.jpg");
        let mut bytes = fs::read(fixture(&name)).unwrap();
        let expected = decode_rgb(&fixture(&name), MAX_PIXELS).unwrap();
        let entry = bytes.windows(4).position(|four| four == [1, 0x12, 0, 3]);
        let entry = entry.unwrap();
        bytes[entry + 3] = 4;
        bytes[entry + 8..entry + 12].copy_from_slice(&u32::from(orientation).to_be_bytes());
        let path = folder.write(&name, bytes);
        assert_eq!(decode_rgb(&path, MAX_PIXELS).unwrap(), expected, "{name}");
        let header = read_header(&path, MAX_PIXELS).unwrap().unwrap();
        let size = (header.width, header.height);
        assert_eq!(
            (size, header.orientation.to_exif()),
            (expected.dimensions(), orientation)
        );
    }
}

/// Of JPEG and TIFF files, wherever the EXIF data of a JPEG file lie before its pixels, and whatever lies before them.
#[test]
fn headers_say_how_a_image_is_turned() {
    let folder = TempFolder::new();
    for orientation in 1..=8_u8 {
        let jpeg = fs::read(fixture(&format!("orientation_{orientation}.jpg"))).unwrap();
        let start = jpeg.windows(6).position(|six| six == b"Exif\0\0").unwrap() - 4;
        let length = 2 + usize::from(u16::from_be_bytes([jpeg[start + 2], jpeg[start + 3]]));
        let (exif, without) = (
            &jpeg[start..start + length],
            [&jpeg[..start], &jpeg[start + length..]].concat(),
        );
        let scan = without
            .windows(2)
            .position(|two| two == [0xff, 0xda])
            .unwrap();
        let late = [&without[..scan], exif, &without[scan..]].concat();
        // as XMP data lie before it, longer than what is read at a time
        let mut other = vec![b'x'; 20_000];
        other[..2].copy_from_slice(&[0xff, 0xe1]);
        other[2..4].copy_from_slice(&19_998_u16.to_be_bytes());
        let behind = [&jpeg[..2], &other, &jpeg[2..]].concat();
        let tiff = format!("../odd/orientation_{orientation}.tif");
        let mut files = vec![fixture(&tiff)];
        for (name, bytes) in [("plain.jpg", jpeg), ("late.jpg", late), ("xmp.jpg", behind)] {
            files.push(folder.write(name, bytes));
        }
        for path in files {
            let header = read_header(&path, MAX_PIXELS).unwrap().unwrap();
            let shown = decode_rgb(&path, MAX_PIXELS).unwrap();
            let found = (header.orientation.to_exif(), (header.width, header.height));
            let name = path.display();
            assert_eq!(found, (orientation, shown.dimensions()), "{name}");
        }
        let path = folder.write("upright.jpg", without);
        let header = read_header(&path, MAX_PIXELS).unwrap().unwrap();
        assert_eq!(header.orientation.to_exif(), 1);
    }
}

#[test]
fn damaged_exif_data_are_no_reason_to_drop_a_image() {
    let folder = TempFolder::new();
    let upright = texture();
    let png = encoded(&upright, image::ImageFormat::Png);
    for exif in [
        b"".as_slice(),
        b"II*\0",
        b"MM\0*\xff\xff\xff\xff",
        b"no EXIF at all",
        &exif(9, true, false),
        &exif(0, false, true),
        &exif(6, true, false)[..15],
    ] {
        let bytes = with_chunk(&png, &png_chunk(b"eXIf", exif), true);
        let path = folder.write("damaged.png", bytes);
        assert_eq!(decode_rgb(&path, MAX_PIXELS).unwrap(), upright);
    }
}
