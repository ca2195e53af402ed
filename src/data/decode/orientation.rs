//! The orientation of an image, from the EXIF data of its file.

use std::io::{Cursor, Read};

use flate2::read::ZlibDecoder;
use image::ImageFormat;
use image::metadata::Orientation;

use crate::data::decode::directory::{Directory, tag};
use crate::data::decode::kind::sniff;
use crate::data::decode::{jpeg, png};

/// Bytes that the EXIF data of a PNG file may inflate to; a camera's are some 64 kB.
pub const MAX_EXIF: u64 = 1 << 20;
/// Start of a text of a PNG file in which ImageMagick writes EXIF data.
pub const RAW_PROFILE: &[u8] = b"Raw profile type ";

/// The orientation by EXIF, or upright: damaged metadata is no reason to drop an image.
pub fn of_file(bytes: &[u8], format: ImageFormat) -> Orientation {
    let orientation = match format {
        ImageFormat::Jpeg => jpeg::exif(bytes).and_then(of_exif),
        ImageFormat::Png => of_png(bytes),
        ImageFormat::WebP => riff_chunks(bytes)
            .find(|(kind, _)| *kind == b"EXIF")
            .and_then(|(_, data)| of_exif(data)),
        _ => None,
    };
    orientation.unwrap_or(Orientation::NoTransforms)
}

/// EXIF's number for it.
pub fn of_number(number: u64) -> Option<Orientation> {
    Orientation::from_exif(u8::try_from(number).ok()?)
}

/// From EXIF data, which is built like a TIFF file; some writers put the header of JPEG's segment before it.
pub fn of_exif(mut exif: &[u8]) -> Option<Orientation> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    if sniff(exif) != Some(ImageFormat::Tiff) {
        return None;
    }
    let mut exif = Cursor::new(exif);
    let directory = Directory::read(&mut exif).ok()?;
    of_number(directory.number_or(&mut exif, tag::ORIENTATION, 1).ok()?)
}

/// From a chunk of EXIF data before or behind the pixels, or from the text that ImageMagick writes instead.
fn of_png(bytes: &[u8]) -> Option<Orientation> {
    let mut of_text = None;
    for (kind, data) in png::chunks(bytes) {
        match kind {
            b"eXIf" => return of_exif(data),
            b"tEXt" | b"zTXt" | b"iTXt" if of_text.is_none() => {
                of_text = text(kind, data).and_then(|text| of_exif(&raw_profile(&text)?));
            }
            _ => {}
        }
    }
    of_text
}

/// The text of a chunk whose keyword is that of raw EXIF data.
fn text(kind: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let data = data.strip_prefix(RAW_PROFILE)?;
    let data = (data.strip_prefix(b"exif\0")).or_else(|| data.strip_prefix(b"APP1\0"))?;
    let (is_compressed, data) = match kind {
        b"tEXt" => (false, data),
        // the method, which is 0
        b"zTXt" => (true, data.get(1..)?),
        _ => {
            let (flags, data) = data.split_at_checked(2)?;
            // a language and a translated keyword
            let mut parts = data.splitn(3, |byte| *byte == 0);
            (flags[0] == 1, parts.nth(2)?)
        }
    };
    if !is_compressed {
        return Some(data.to_vec());
    }
    let mut text = Vec::new();
    // Of a damaged one, what there is.
    let _ = ZlibDecoder::new(data).take(MAX_EXIF).read_to_end(&mut text);
    Some(text)
}

/// The bytes of a profile as ImageMagick writes it: its name and its length, each in a line, and hexadecimal digits.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let mut words = text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words.next()?;
    words.next()?;
    let digits: Vec<u8> = words
        .flatten()
        .map_while(|digit| Some(char::from(*digit).to_digit(16)? as u8))
        .collect();
    let bytes = digits.as_chunks::<2>().0.iter();
    Some(bytes.map(|[high, low]| high << 4 | low).collect())
}

/// The chunks of a WebP file: their names and their data.
fn riff_chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, data) = rest.split_at_checked(4)?;
        let (length, data) = data.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        // Chunks begin at even places.
        rest = data
            .get(length.saturating_add(length & 1)..)
            .unwrap_or_default();
        Some((kind, data.get(..length)?))
    })
}
