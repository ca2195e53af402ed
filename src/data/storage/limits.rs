//! Limits of an image file: pixels, memory, bytes; and the messages about files beyond them.

use std::io::ErrorKind;
use std::path::Path;

use image::ImageError;

use crate::error::{Error, Result, printable};

/// A header that needs more memory than this, or that ends later in the file, is no header.
pub(in crate::data) const HEADER_BYTES: u64 = 64 << 20;

/// Memory a decoder may take per pixel: RGBA of 16 bits, twice (GIF and WebP compose frames on a canvas).
const DECODER_BYTES_PER_PIXEL: u64 = 16;

/// Memory a decoder may take on top, for tables and rows.
const DECODER_BYTES: u64 = 64 << 20;

/// The message about a file whose decoder would need more.
pub(in crate::data) const MORE_MEMORY: &str =
    "damaged: decoding it takes more memory than its pixels need";

/// Says why an image of this size is not read, or None if it is.
pub(in crate::data) fn unusable_size(width: u32, height: u32, max_pixels: u64) -> Option<String> {
    if width == 0 || height == 0 {
        return Some(format!("{width} x {height} pixels"));
    }
    let pixels = u64::from(width) * u64::from(height);
    (pixels > max_pixels).then(|| {
        format!(
            "{width} x {height} pixels are more than max_pixels = {max_pixels}; \
             shrink it, or raise `max_pixels`"
        )
    })
}

/// Maximum bytes of the file of an image with this many pixels, and of its decoder.
pub(in crate::data) fn memory_limit(pixels: u64) -> u64 {
    pixels
        .saturating_mul(DECODER_BYTES_PER_PIXEL)
        .saturating_add(DECODER_BYTES)
}

/// Refuses a file longer than its decoder's memory may be.
///
/// A file may claim any length at no cost (holes), and is read as a whole.
pub(super) fn check_length(path: &Path, length: u64, max_pixels: u64) -> Result<u64> {
    let most = memory_limit(max_pixels);
    if length > most {
        let reason = format!(
            "{length} bytes are more than the {most} that max_pixels = {max_pixels} allows; \
             raise `max_pixels` if the file is intact"
        );
        return Err(Error::data(path, reason));
    }
    Ok(length)
}

/// The message for an error of an `image` decoder, escaped because part of it comes from the file.
pub(in crate::data) fn in_words(error: ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "truncated: it ends too early".to_owned()
        }
        ImageError::Unsupported(error) => format!(
            "this kind is not supported ({}); save it as PNG or JPEG",
            printable(error.to_string().trim_end())
        ),
        ImageError::Limits(_) => MORE_MEMORY.to_owned(),
        error => format!("damaged: {}", printable(error.to_string().trim_end())),
    }
}
