//! A picture file as 8-bit RGB: any color type, transparency on white, upright.

mod directory;
mod gif;
mod jpeg;
mod orientation;
mod png;
mod tiff;

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};

use crate::data::kind::{MAGIC_BYTES, kind};
use crate::data::limits::{HEADER_BYTES, check_length, in_words, memory_limit, unusable_size};
use crate::error::{Error, Result};

pub(super) use gif::screen as gif_screen;
pub(super) use jpeg::check_frame;

/// The picture in `path` as 8-bit RGB.
///
/// Gray becomes three equal channels, 16 bits and floats of 0 to 1 are scaled to 8 bits, transparency is composed on
/// white (TIFF's premultiplied kind too), a palette is looked up, CMYK is taken as Adobe's in JPEG files (inverted, as
/// browsers do) and as ink in TIFF files, and the orientation of EXIF data is applied, wherever in the file they lie. Of
/// an animation it is the first frame, which widens its screen where it is larger; of a TIFF file the first page. Color
/// profiles are ignored, as by torchvision.
///
/// # Shapes
/// H x W x 3, row-major.
///
/// # Errors
/// The file cannot be read, is no picture, is of a kind that is not read (cameras' raw files, HEIC, TIFF with whole
/// numbers of 32 bits, ...), is truncated or damaged, has more than `max_pixels` pixels, or is longer than any such
/// picture.
pub fn decode_rgb(path: &Path, max_pixels: u64) -> Result<RgbImage> {
    decoded(path, max_pixels, decode_bytes)
}

/// The same picture with its alpha channel: 8-bit RGBA. On white it is what [`decode_rgb`] gives.
///
/// # Shapes
/// H x W x 4, row-major.
///
/// # Errors
/// Those of [`decode_rgb`]; a picture without an alpha channel; TIFF, whose alpha channel is not read.
pub fn decode_rgba(path: &Path, max_pixels: u64) -> Result<RgbaImage> {
    decoded(path, max_pixels, |bytes, format, max_pixels| {
        if format == ImageFormat::Tiff {
            return Err("the alpha channel of TIFF is not read; save it as PNG".to_owned());
        }
        let orientation = orientation::of_file(&bytes, format);
        let mut picture = open(bytes, format, max_pixels)?;
        if !picture.color().has_alpha() {
            return Err("has no alpha channel".to_owned());
        }
        picture.apply_orientation(orientation);
        Ok(picture.into_rgba8())
    })
}

fn decoded<T>(
    path: &Path,
    max_pixels: u64,
    decode: impl FnOnce(Vec<u8>, ImageFormat, u64) -> std::result::Result<T, String>,
) -> Result<T> {
    let length = check_length(path, max_pixels)?;
    let mut bytes = Vec::with_capacity(length as usize);
    File::open(path)
        // It may have grown.
        .and_then(|file| file.take(memory_limit(max_pixels)).read_to_end(&mut bytes))
        .map_err(Error::io(path))?;
    let magic = &bytes[..bytes.len().min(MAGIC_BYTES as usize)];
    let format = kind(path, magic).and_then(|format| format.ok_or("not an image".to_owned()));
    let format = format.map_err(|reason| Error::data(path, reason))?;
    // a decoder that panics on a damaged file must lose that file only
    catch_unwind(AssertUnwindSafe(|| decode(bytes, format, max_pixels)))
        .unwrap_or_else(|_| Err("the decoder failed on it".to_owned()))
        .map_err(|reason| Error::data(path, reason))
}

/// Width and height of a TIFF file's first page; the reason if it is not read.
pub(super) fn tiff_size(file: &mut (impl Read + Seek)) -> std::result::Result<[u32; 2], String> {
    let layout = tiff::Layout::read(file)?;
    Ok([layout.width, layout.height])
}

fn decode_bytes(
    bytes: Vec<u8>,
    format: ImageFormat,
    max_pixels: u64,
) -> std::result::Result<RgbImage, String> {
    let orientation = orientation::of_file(&bytes, format);
    match format {
        ImageFormat::Tiff => {
            let layout = tiff::Layout::read(&mut Cursor::new(&bytes))?;
            return match unusable_size(layout.width, layout.height, max_pixels) {
                Some(reason) => Err(reason),
                None => Ok(turned(tiff::decode(bytes, &layout)?, layout.orientation)),
            };
        }
        ImageFormat::Jpeg => {
            if let Some(picture) = jpeg::decode(&bytes, max_pixels)? {
                return Ok(turned(picture, orientation));
            }
        }
        _ => {}
    }
    let picture = open(bytes, format, max_pixels)?;
    let picture = match picture.color().has_alpha() {
        true => on_white(&picture.into_rgba8()),
        false => picture.into_rgb8(),
    };
    Ok(turned(picture, orientation))
}

/// The picture as it lies in the file.
fn open(
    mut bytes: Vec<u8>,
    format: ImageFormat,
    max_pixels: u64,
) -> std::result::Result<DynamicImage, String> {
    match format {
        ImageFormat::Png => png::complete(&mut bytes),
        ImageFormat::Gif => gif::widen_screen(&mut bytes),
        _ => {}
    }
    let mut limits = Limits::no_limits();
    // Until the size is known; what a compressed color profile of a PNG file may inflate to.
    limits.max_alloc = Some(HEADER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes.as_slice()), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(in_words)?;
    let (width, height) = decoder.dimensions();
    if let Some(reason) = unusable_size(width, height, max_pixels) {
        return Err(reason);
    }
    limits.max_alloc = Some(memory_limit(u64::from(width) * u64::from(height)));
    decoder.set_limits(limits).map_err(in_words)?;
    DynamicImage::from_decoder(decoder).map_err(in_words)
}

fn turned(picture: RgbImage, orientation: Orientation) -> RgbImage {
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    picture.into_rgb8()
}

/// `picture` on a white ground.
pub(crate) fn on_white(picture: &RgbaImage) -> RgbImage {
    let mut composed = RgbImage::new(picture.width(), picture.height());
    for (to, from) in composed.pixels_mut().zip(picture.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        // round(alpha * color + (1 - alpha) * white) in whole numbers
        to.0 = [r, g, b].map(|color| ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    composed
}
