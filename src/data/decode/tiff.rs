//! TIFF and BigTIFF: the first page, whatever its samples are; what is not read is refused in plain words.
//!
//! The tiff crate unpacks the samples and this module gives them their meaning, because `image` knows no palette, no
//! gray with transparency, less than 8 bits or floats of gray, and takes both kinds of alpha for one.

mod layout;
mod samples;

pub use layout::Layout;

use std::io::{Cursor, ErrorKind};

use image::RgbImage;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{TiffError, TiffFormatError};

use crate::data::decode::deep::{DeepSamples, DeepValues};
use crate::data::decode::depth::Depth;
use crate::data::decode::directory::{Directory, tag};
use crate::data::decode::tiff::layout::{not_read, unreadable};
use crate::data::decode::tiff::samples::to_rgb;
use crate::data::decode::value_counts::ValueCounts;
use crate::data::decode::value_range::ValueRange;
use crate::data::storage::limits::{MORE_MEMORY, memory_limit};
use crate::error::printable;

/// Black is zero: the tiff crate then gives the samples as they are.
const BLACK_IS_ZERO: u16 = 1;

/// The first page of the file `bytes`, not yet turned; `range` becomes black to white.
pub fn decode(bytes: Vec<u8>, layout: &Layout, range: ValueRange) -> Result<RgbImage, String> {
    let (mut samples, is_planar) = unpacked(bytes, layout)?;
    if let Some(deep) = deep(layout, &mut samples, is_planar) {
        let has_range = layout.depth() != Depth::Bits8;
        deep.stretch(if has_range { range } else { ValueRange::Full })?;
    }
    to_rgb(layout, samples, is_planar)
}

/// Adds the colors of the first page to `counts`, if they have more than 8 bits.
pub fn count(bytes: Vec<u8>, layout: &Layout, counts: &mut ValueCounts) -> Result<(), String> {
    let (mut samples, is_planar) = unpacked(bytes, layout)?;
    match deep(layout, &mut samples, is_planar) {
        Some(deep) if layout.depth() != Depth::Bits8 => deep.count(counts),
        _ => {}
    }
    Ok(())
}

/// The samples, if they have more than 8 bits.
fn deep<'a>(
    layout: &Layout,
    samples: &'a mut DecodingResult,
    is_planar: bool,
) -> Option<DeepSamples<'a>> {
    // plane by plane, those of the colors first
    let most = if is_planar {
        layout.color.samples() * layout.width as usize * layout.height as usize
    } else {
        usize::MAX
    };
    fn first<T>(values: &mut [T], most: usize) -> &mut [T] {
        let most = most.min(values.len());
        &mut values[..most]
    }
    let values = match samples {
        DecodingResult::U16(values) => DeepValues::Whole(first(values, most)),
        DecodingResult::F16(values) => DeepValues::Half(first(values, most)),
        DecodingResult::F32(values) => DeepValues::Single(first(values, most)),
        DecodingResult::F64(values) => DeepValues::Double(first(values, most)),
        _ => return None,
    };
    let (samples, colors) = if is_planar {
        (1, 1)
    } else {
        (layout.samples, layout.color.samples())
    };
    Some(DeepSamples {
        values,
        samples,
        colors,
    })
}

/// The samples of the first page, and whether they lie plane by plane.
fn unpacked(mut bytes: Vec<u8>, layout: &Layout) -> Result<(DecodingResult, bool), String> {
    layout
        .directory
        .set(&mut bytes, tag::PHOTOMETRIC, BLACK_IS_ZERO);
    if layout.is_reversed {
        reverse_bits(&mut bytes, &layout.directory).map_err(unreadable)?;
    }
    if layout.is_lzw {
        lengthen(&mut bytes, &layout.directory).map_err(unreadable)?;
    }
    let pixels = u64::from(layout.width) * u64::from(layout.height);
    let limit = usize::try_from(memory_limit(pixels)).unwrap_or(usize::MAX);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = limit;
    limits.intermediate_buffer_size = limit;
    limits.ifd_value_size = limit;
    let mut samples = DecodingResult::U8(Vec::new());
    let read = |samples: &mut DecodingResult| {
        let mut decoder = Decoder::new(Cursor::new(bytes))?.with_limits(limits);
        decoder.read_image_to_buffer(samples)
    };
    let planes = read(&mut samples).map_err(in_words)?;
    if samples.as_buffer(0).byte_len() < planes.complete_len {
        return Err(in_words(TiffError::LimitsExceeded));
    }
    Ok((samples, planes.planes > 1))
}

/// Tags of where strips and tiles lie, and of their lengths.
const PIECES: [(u16, u16); 2] = [
    (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS),
    (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS),
];

/// Puts the bits of all strips or tiles into the usual order, which the tiff crate knows alone.
fn reverse_bits(bytes: &mut [u8], directory: &Directory) -> std::io::Result<()> {
    for (offsets, lengths) in PIECES {
        let offsets = directory.numbers(&mut Cursor::new(&*bytes), offsets)?;
        let lengths = directory.numbers(&mut Cursor::new(&*bytes), lengths)?;
        for (offset, length) in offsets.into_iter().zip(lengths) {
            let piece = offset as usize..(offset as usize).saturating_add(length as usize);
            for byte in bytes.get_mut(piece).unwrap_or_default() {
                *byte = byte.reverse_bits();
            }
        }
    }
    Ok(())
}

/// Appends some bytes, which are not read, to each strip or tile of LZW.
///
/// weezl 0.1.12 gives up with bytes in hand where its input ends, if it is asked for a row at a time: for tiles.
fn lengthen(bytes: &mut Vec<u8>, directory: &Directory) -> std::io::Result<()> {
    const MORE: u64 = 8;
    for (offsets, lengths) in PIECES {
        let offsets = directory.numbers(&mut Cursor::new(&*bytes), offsets)?;
        let mut longer = directory.numbers(&mut Cursor::new(&*bytes), lengths)?;
        for (offset, length) in offsets.into_iter().zip(&mut longer) {
            // A truncated one must stay so.
            if offset.saturating_add(*length) <= bytes.len() as u64 {
                *length += MORE;
            }
        }
        directory.set_numbers(bytes, lengths, &longer)?;
    }
    bytes.extend([0; MORE as usize]);
    Ok(())
}

/// The message for an error of the tiff crate.
fn in_words(error: TiffError) -> String {
    match error {
        TiffError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "truncated: its pixels end too early".to_owned()
        }
        TiffError::IoError(error) => format!("damaged: {}", printable(error.to_string())),
        TiffError::FormatError(TiffFormatError::StripTileTagConflict) => {
            "damaged: the offsets of its pixels are missing".to_owned()
        }
        TiffError::FormatError(error) => format!("damaged: {}", printable(error.to_string())),
        TiffError::UnsupportedError(error) => not_read(&format!(
            "a layout of its own ({})",
            printable(error.to_string())
        )),
        TiffError::LimitsExceeded => MORE_MEMORY.to_owned(),
        error => printable(error.to_string()),
    }
}
