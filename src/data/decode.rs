//! An image file as 8-bit RGB: any color type, transparency on white, upright.
//!
//! - [`header`]: the first bytes of a file, and its size without decoding it; `kind`: its format by them, and why others are left out;
//!   [`drawing`]: the mark of what this program draws; `depth`: what its samples are; `turned`: its orientation
//! - `value_range`: which values become black and white; `value_counts`: how they are measured
//! - `label_map`: a segmentation mask, the class of each pixel

mod deep;
pub(in crate::data) mod depth;
mod directory;
pub mod drawing;
mod gif;
pub mod header;
mod jpeg;
pub(in crate::data) mod kind;
pub(in crate::data) mod label_map;
mod orientation;
mod png;
mod tiff;
mod turned;
pub(in crate::data) mod value_counts;
pub(in crate::data) mod value_range;

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};

use crate::data::decode::deep::DeepSamples;
use crate::data::decode::kind::{MAGIC_BYTES, kind};
use crate::data::decode::value_counts::ValueCounts;
use crate::data::decode::value_range::ValueRange;
use crate::data::storage::limits::{HEADER_BYTES, in_words, memory_limit, unusable_size};
use crate::data::storage::opened::Opened;
use crate::data::storage::reading::reading;
use crate::data::storage::stamp::Stamp;
use crate::error::{Error, Result};

/// The image in `path` as 8-bit RGB, values of more than 8 bits from their whole range: [`ValueRange::Full`].
///
/// # Shapes
/// H x W x 3, row-major.
///
/// # Errors
/// Those of [`decode_rgb_in`].
pub fn decode_rgb(path: &Path, max_pixels: u64) -> Result<RgbImage> {
    decode_rgb_in(path, max_pixels, ValueRange::Full)
}

/// The image in `path` as 8-bit RGB.
///
/// Gray becomes three equal channels, 16 bits and floats are scaled to 8 bits as `range` says, transparency is composed on
/// white (TIFF's premultiplied kind too), a palette is looked up, CMYK is taken as Adobe's in JPEG files (inverted, as
/// browsers do) and as ink in TIFF files, and the orientation of EXIF data is applied, wherever in the file they lie. Of
/// an animation it is the first frame, which widens its screen where it is larger; of a TIFF file the first page. Color
/// profiles are ignored, as by torchvision.
///
/// # Shapes
/// H x W x 3, row-major.
///
/// # Errors
/// The file cannot be read, is no image, is of a kind that is not read (cameras' raw files, HEIC, TIFF with whole
/// numbers of 32 bits, ...), is truncated or damaged, has more than `max_pixels` pixels, or is longer than any such
/// image.
pub fn decode_rgb_in(path: &Path, max_pixels: u64, range: ValueRange) -> Result<RgbImage> {
    decoded(path, max_pixels, |bytes, format, _| {
        decode_bytes(bytes, format, max_pixels, range)
    })
}

/// [`decode_rgb_in`] of a file that was seen before: refuses it where `is_replaced`, by its bytes, kind and stamp.
///
/// # Errors
/// Those of [`decode_rgb_in`], which come first, and that it is another image now.
pub(super) fn decode_rgb_as_seen(
    path: &Path,
    max_pixels: u64,
    range: ValueRange,
    is_replaced: impl FnOnce(&[u8], ImageFormat, Stamp) -> bool,
) -> Result<RgbImage> {
    decoded(path, max_pixels, |bytes, format, stamp| {
        let is_replaced = is_replaced(&bytes, format, stamp);
        let image = decode_bytes(bytes, format, max_pixels, range)?;
        if is_replaced {
            Err("has another size or kind than when the folder was scanned".to_owned())
        } else {
            Ok(image)
        }
    })
}

/// The same image with its alpha channel: 8-bit RGBA. On white it is what [`decode_rgb_in`] gives.
///
/// # Shapes
/// H x W x 4, row-major.
///
/// # Errors
/// Those of [`decode_rgb_in`]; an image without an alpha channel; TIFF, whose alpha channel is not read.
pub fn decode_rgba(path: &Path, max_pixels: u64, range: ValueRange) -> Result<RgbaImage> {
    decoded(path, max_pixels, |bytes, format, _| {
        if format == ImageFormat::Tiff {
            return Err("the alpha channel of TIFF is not read; save it as PNG".to_owned());
        }
        let orientation = orientation::of_file(&bytes, format);
        let mut image = open(bytes, format, max_pixels)?;
        if !image.color().has_alpha() {
            return Err("has no alpha channel".to_owned());
        }
        stretch(&mut image, range)?;
        image.apply_orientation(orientation);
        Ok(image.into_rgba8())
    })
}

/// Adds the values of the colors of the image in `path` to `counts`, if they have more than 8 bits.
///
/// # Errors
/// Those of [`decode_rgb_in`].
pub(super) fn count_values(path: &Path, max_pixels: u64, counts: &mut ValueCounts) -> Result<()> {
    decoded(path, max_pixels, |bytes, format, _| {
        if format == ImageFormat::Tiff {
            let layout = tiff_layout(&bytes, max_pixels)?;
            return tiff::count(bytes, &layout, counts);
        }
        let mut image = open(bytes, format, max_pixels)?;
        if let Some(deep) = DeepSamples::of_image(&mut image) {
            deep.count(counts);
        }
        Ok(())
    })
}

fn decoded<T>(
    path: &Path,
    max_pixels: u64,
    decode: impl FnOnce(Vec<u8>, ImageFormat, Stamp) -> std::result::Result<T, String>,
) -> Result<T> {
    let (bytes, stamp) = reading(|| -> Result<_> {
        let mut opened = Opened::open(path)?;
        opened.file.expect_all();
        let (length, stamp) = (opened.length(path, max_pixels)?, opened.stamp());
        let mut bytes = Vec::with_capacity(length as usize);
        // it may have grown
        let mut file = opened.file.take(memory_limit(max_pixels));
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        Ok((bytes, stamp))
    })?;
    let magic = &bytes[..bytes.len().min(MAGIC_BYTES as usize)];
    let format = kind(path, magic).and_then(|format| format.ok_or("not an image".to_owned()));
    let format = format.map_err(|reason| Error::data(path, reason))?;
    // a decoder that panics on a damaged file must lose that file only
    catch_unwind(AssertUnwindSafe(|| decode(bytes, format, stamp)))
        .unwrap_or_else(|_| Err("the decoder failed on it".to_owned()))
        .map_err(|reason| Error::data(path, reason))
}

/// What a TIFF file's first page is; the reason if it is not read.
fn tiff_layout(bytes: &[u8], max_pixels: u64) -> std::result::Result<tiff::Layout, String> {
    let layout = tiff::Layout::read(&mut Cursor::new(bytes))?;
    match unusable_size(layout.width, layout.height, max_pixels) {
        Some(reason) => Err(reason),
        None => Ok(layout),
    }
}

/// Stretches colors of more than 8 bits.
fn stretch(image: &mut DynamicImage, range: ValueRange) -> std::result::Result<(), String> {
    match DeepSamples::of_image(image) {
        Some(deep) => deep.stretch(range),
        None => Ok(()),
    }
}

fn decode_bytes(
    bytes: Vec<u8>,
    format: ImageFormat,
    max_pixels: u64,
    range: ValueRange,
) -> std::result::Result<RgbImage, String> {
    let orientation = orientation::of_file(&bytes, format);
    match format {
        ImageFormat::Tiff => {
            let layout = tiff_layout(&bytes, max_pixels)?;
            let image = tiff::decode(bytes, &layout, range)?;
            return Ok(turned(image, layout.orientation));
        }
        ImageFormat::Jpeg => {
            if let Some(image) = jpeg::decode(&bytes, max_pixels)? {
                return Ok(turned(image, orientation));
            }
        }
        _ => {}
    }
    let image = rgb_of(open(bytes, format, max_pixels)?, range)?;
    Ok(turned(image, orientation))
}

/// A decoded image as 8-bit RGB: values of more than 8 bits are scaled as `range` says, transparency is composed on white. Its
/// orientation stays: that of a file is in its EXIF data.
///
/// # Shapes
/// H x W x 3, row-major.
///
/// # Errors
/// Those of [`DeepSamples::stretch`], for floats alone.
pub(crate) fn rgb_of(
    mut image: DynamicImage,
    range: ValueRange,
) -> std::result::Result<RgbImage, String> {
    stretch(&mut image, range)?;
    Ok(if image.color().has_alpha() {
        on_white(&image.into_rgba8())
    } else {
        image.into_rgb8()
    })
}

/// The image as it lies in the file.
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

fn turned(image: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// `image` on a white ground.
pub(crate) fn on_white(image: &RgbaImage) -> RgbImage {
    let mut composed = RgbImage::new(image.width(), image.height());
    for (to, from) in composed.pixels_mut().zip(image.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        // round(alpha * color + (1 - alpha) * white) in whole numbers
        to.0 = [r, g, b].map(|color| ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    composed
}
