//! A picture file as 8-bit RGB: any color type, transparency on white, upright.

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};

use super::header::{jpeg_is_complete, sniff};
use crate::error::{Error, Result};

/// Memory a decoder may take per pixel: RGBA of 16 bits, twice (GIF and WebP compose frames on a canvas).
const DECODER_BYTES_PER_PIXEL: u64 = 16;
/// Memory a decoder may take on top, for tables and rows.
const DECODER_BYTES: u64 = 64 << 20;

/// The picture in `path` as 8-bit RGB.
///
/// Gray becomes three equal channels, 16 bits are scaled to 8, transparency is composed on white, a palette is looked
/// up, CMYK is taken as Adobe's (inverted, as browsers do), and EXIF orientation is applied. Of an animation it is the
/// first frame. Color profiles are ignored, as by torchvision.
///
/// # Shapes
/// H x W x 3, row-major.
///
/// # Errors
/// The file cannot be read, is no picture, is truncated or damaged, or has more than `max_pixels` pixels.
pub fn decode_rgb(path: &Path, max_pixels: u64) -> Result<RgbImage> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(Error::io(path))?;
    // A decoder that panics on a damaged file must cost that file only.
    catch_unwind(AssertUnwindSafe(|| decode_bytes(&bytes, max_pixels)))
        .unwrap_or_else(|_| Err("the decoder failed on it".to_owned()))
        .map_err(|reason| Error::data(path, reason))
}

/// Says why a picture of this size is not read, or None if it is.
pub(super) fn too_large(width: u32, height: u32, max_pixels: u64) -> Option<String> {
    let pixels = u64::from(width) * u64::from(height);
    (pixels > max_pixels)
        .then(|| format!("{width} x {height} pixels are more than max_pixels = {max_pixels}"))
}

fn decode_bytes(bytes: &[u8], max_pixels: u64) -> std::result::Result<RgbImage, String> {
    let format = sniff(bytes).ok_or("not a picture")?;
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err("truncated: its end marker is missing".to_owned());
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(
        max_pixels
            .saturating_mul(DECODER_BYTES_PER_PIXEL)
            .saturating_add(DECODER_BYTES),
    );
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    if let Some(reason) = too_large(width, height, max_pixels) {
        return Err(reason);
    }
    // Damaged metadata is no reason to drop a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    let mut picture = if picture.color().has_alpha() {
        DynamicImage::ImageRgb8(on_white(&picture.into_rgba8()))
    } else {
        DynamicImage::ImageRgb8(picture.into_rgb8())
    };
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// `picture` on a white ground.
fn on_white(picture: &RgbaImage) -> RgbImage {
    let mut composed = RgbImage::new(picture.width(), picture.height());
    for (to, from) in composed.pixels_mut().zip(picture.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        // round(alpha * color + (1 - alpha) * white) in whole numbers
        to.0 = [r, g, b].map(|color| ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    composed
}
