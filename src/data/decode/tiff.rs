//! TIFF and BigTIFF: the first page, whatever its samples are; what is not read is refused in plain words.
//!
//! The tiff crate unpacks the samples and this module gives them their meaning, because `image` knows no palette, no
//! gray with transparency, less than 8 bits or floats of gray, and takes both kinds of alpha for one.

mod samples;

use std::io::{Cursor, ErrorKind, Read, Seek};

use image::RgbImage;
use image::metadata::Orientation;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{TiffError, TiffFormatError};

use self::samples::to_rgb;
use crate::data::decode::directory::{Directory, tag};
use crate::data::decode::orientation::of_number;
use crate::data::decode::{MORE_MEMORY, memory_limit};
use crate::data::kind::raw_photo;
use crate::error::printable;

/// Black is zero: the tiff crate then gives the samples as they are.
const BLACK_IS_ZERO: u16 = 1;
const LZW: u64 = 5;
/// Bytes that the samples of a pixel may take.
const MOST_BYTES_PER_PIXEL: u64 = 16;

/// What the first samples of a pixel are.
#[derive(Debug, Clone, PartialEq)]
enum Color {
    Gray {
        is_inverted: bool,
    },
    Rgb,
    /// Inks: 0 is none.
    Cmyk,
    /// The shares of red, green and blue in luma.
    YCbCr([f32; 3]),
    /// Red, green and blue of each index.
    Palette(Vec<[u8; 3]>),
}

impl Color {
    fn samples(&self) -> usize {
        match self {
            Self::Gray { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr(_) => 3,
            Self::Cmyk => 4,
        }
    }
}

/// What the sample behind the color is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpha {
    None,
    Straight,
    /// The color is multiplied by it already (ExtraSamples = 1).
    Premultiplied,
}

/// What a picture's samples are.
#[derive(Debug)]
pub struct Layout {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Of a sample.
    bits: u64,
    samples: usize,
    color: Color,
    alpha: Alpha,
    /// The first pixel is in the lowest bit of its byte (FillOrder = 2).
    is_reversed: bool,
    is_lzw: bool,
    directory: Directory,
}

impl Layout {
    /// Reads the layout of the first page.
    ///
    /// # Errors
    /// The reason why this page can not be shown.
    pub fn read(file: &mut (impl Read + Seek)) -> Result<Self, String> {
        let directory = Directory::read(file).map_err(unreadable)?;
        if !directory.is_whole {
            return Err("truncated: its directory ends too early".to_owned());
        }
        if is_raw_photo(&directory, file).map_err(unreadable)? {
            return Err(raw_photo());
        }
        let numbers = |file: &mut _, tag| directory.numbers(file, tag).map_err(unreadable);
        let first = |file: &mut _, tag, default| {
            directory.number_or(file, tag, default).map_err(unreadable)
        };
        let compression = first(file, tag::COMPRESSION, 1)?;
        check_compression(compression)?;
        let bits = numbers(file, tag::BITS_PER_SAMPLE)?;
        if bits.iter().any(|some| *some != bits[0]) {
            return Err(not_read(&format!("samples of {} bits", list(&bits))));
        }
        let bits = bits.first().copied().unwrap_or(1);
        let samples = first(file, tag::SAMPLES_PER_PIXEL, 1)?;
        let formats = numbers(file, tag::SAMPLE_FORMAT)?;
        check_samples(bits, formats.first().copied().unwrap_or(1))?;
        if samples.saturating_mul(bits) > MOST_BYTES_PER_PIXEL * 8 {
            return Err(not_read(&format!(
                "{samples} samples of {bits} bits a pixel"
            )));
        }
        // tiff 0.11.3 takes the last tiles of all planes but the first for whole ones, and panics.
        let height = first(file, tag::IMAGE_LENGTH, 0)?;
        let is_planar = samples > 1 && first(file, tag::PLANAR_CONFIGURATION, 1)? == 2;
        if is_planar && height % first(file, tag::TILE_LENGTH, 1)?.max(1) != 0 {
            return Err(not_read("a plane for each color, in tiles"));
        }
        let color = read_color(&directory, file, bits)?;
        if color.samples() as u64 > samples {
            return Err(format!("damaged: {samples} samples a pixel are no color"));
        }
        let of_32_bits =
            |size: u64| u32::try_from(size).map_err(|_| "damaged: its size".to_owned());
        Ok(Self {
            width: of_32_bits(first(file, tag::IMAGE_WIDTH, 0)?)?,
            height: of_32_bits(height)?,
            orientation: of_number(first(file, tag::ORIENTATION, 1)?)
                .unwrap_or(Orientation::NoTransforms),
            bits,
            samples: samples as usize,
            alpha: match numbers(file, tag::EXTRA_SAMPLES)?.first() {
                Some(1) => Alpha::Premultiplied,
                Some(2) => Alpha::Straight,
                _ => Alpha::None,
            },
            color,
            is_lzw: compression == LZW,
            // JPEG and WebP have an order of their own.
            is_reversed: first(file, tag::FILL_ORDER, 1)? == 2 && !matches!(compression, 7 | 50001),
            directory,
        })
    }
}

/// The first page of the file `bytes`, not yet turned.
pub fn decode(mut bytes: Vec<u8>, layout: &Layout) -> Result<RgbImage, String> {
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
    to_rgb(layout, samples, planes.planes > 1)
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

/// Lets each strip or tile of LZW go on for some bytes, which nobody reads.
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

/// The file of a camera: a small copy first and the picture in a directory below, or the sensor's values.
fn is_raw_photo(directory: &Directory, file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let mut magic = [0; 10];
    file.rewind()?;
    // Canon's CR2 says so behind the offset of its first directory.
    let is_canon = file.read_exact(&mut magic).is_ok() && magic[8..] == *b"CR";
    let is_reduced = directory.number_or(file, tag::NEW_SUBFILE_TYPE, 0)? & 1 == 1;
    // color filter array, linear raw
    let photometric = directory.number_or(file, tag::PHOTOMETRIC, 0)?;
    Ok(is_canon
        || directory.has(tag::DNG_VERSION)
        || is_reduced && (directory.has(tag::SUB_IFDS) || directory.has_next)
        || matches!(photometric, 32803 | 34892))
}

fn check_compression(compression: u64) -> Result<(), String> {
    let name = match compression {
        // none, G4, LZW, JPEG, two numbers of Deflate, PackBits, WebP
        1 | 4 | 5 | 7 | 8 | 32946 | 32773 | 50001 => return Ok(()),
        2 | 32771 => "CCITT RLE",
        3 => "CCITT G3",
        6 => "old-style JPEG",
        34712 | 33003 | 33005 => "JPEG 2000",
        34887 => "LERC",
        34925 => "LZMA",
        50000 => "zstd",
        50002 | 52546 => "JPEG XL",
        other => return Err(not_read(&format!("compression number {other}"))),
    };
    Err(format!(
        "TIFF with {name} compression is not read: save it as PNG, or with LZW"
    ))
}

fn check_samples(bits: u64, format: u64) -> Result<(), String> {
    match (format, bits) {
        (1, 1..=8 | 16) | (3, 16 | 32 | 64) => Ok(()),
        (1, _) => Err(not_read(&format!("whole numbers of {bits} bits"))),
        (2, _) => Err(not_read("numbers below zero (signed samples)")),
        (3, _) => Err(not_read(&format!("floats of {bits} bits"))),
        (4, _) => Err(not_read("samples of an undefined kind")),
        _ => Err(not_read("complex numbers")),
    }
}

fn read_color(
    directory: &Directory,
    file: &mut (impl Read + Seek),
    bits: u64,
) -> Result<Color, String> {
    let numbers = |file: &mut _, tag| directory.numbers(file, tag).map_err(unreadable);
    let first =
        |file: &mut _, tag, default| directory.number_or(file, tag, default).map_err(unreadable);
    match first(file, tag::PHOTOMETRIC, u64::MAX)? {
        0 => Ok(Color::Gray { is_inverted: true }),
        1 => Ok(Color::Gray { is_inverted: false }),
        2 => Ok(Color::Rgb),
        3 if bits <= 8 => palette(&numbers(file, tag::COLOR_MAP)?, 1 << bits),
        5 if first(file, tag::INK_SET, 1)? == 1 => Ok(Color::Cmyk),
        5 => Err(not_read("inks other than cyan, magenta, yellow and black")),
        6 => {
            let sampling = numbers(file, tag::YCBCR_SUBSAMPLING)?;
            // The JPEG decoder gives every pixel its color; nothing else does.
            if first(file, tag::COMPRESSION, 1)? != 7 && sampling != [1, 1] {
                return Err(not_read("YCbCr colors of fewer pixels than it has"));
            }
            let range = numbers(file, tag::REFERENCE_BLACK_WHITE)?;
            let is_full = |of: &[u64]| of == [0, 255_000, 128_000, 255_000, 128_000, 255_000];
            if bits != 8 || !(range.is_empty() || is_full(&range)) {
                return Err(not_read("YCbCr colors of another range than 0 to 255"));
            }
            let shares = numbers(file, tag::YCBCR_COEFFICIENTS)?;
            let shares = <[u64; 3]>::try_from(shares).unwrap_or([299, 587, 114]);
            Ok(Color::YCbCr(shares.map(|share| share as f32 / 1000.0)))
        }
        3 => Err(not_read(&format!("a palette of {bits} bits"))),
        4 => Err(not_read("a mask")),
        8..=10 => Err(not_read("Lab colors")),
        32844 | 32845 => Err(not_read("LogLuv colors")),
        u64::MAX => Err("damaged: it does not say what its colors are".to_owned()),
        other => Err(not_read(&format!("color space number {other}"))),
    }
}

/// All reds come first, then all greens, then all blues, each of 16 bits.
fn palette(map: &[u64], count: usize) -> Result<Color, String> {
    if map.len() != 3 * count {
        return Err("damaged: its palette".to_owned());
    }
    // Some old writers used 8 bits; libtiff tells them by this as well.
    let shift = if map.iter().any(|value| *value > 255) {
        8
    } else {
        0
    };
    let color = |at: usize| [0, 1, 2].map(|channel| (map[at + channel * count] >> shift) as u8);
    Ok(Color::Palette((0..count).map(color).collect()))
}

fn list(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().take(5).map(u64::to_string).collect();
    numbers.join(", ")
}

fn not_read(what: &str) -> String {
    format!("TIFF with {what} is not read: save it as PNG, or with 8 or 16 bits of gray or RGB")
}

fn unreadable(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "truncated: its directory lies outside of the file".to_owned(),
        _ => format!("its header is unreadable: {error}"),
    }
}

/// What the tiff crate says.
fn in_words(error: TiffError) -> String {
    match error {
        TiffError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "truncated: its pixels end too early".to_owned()
        }
        TiffError::IoError(error) => format!("damaged: {}", printable(error.to_string())),
        TiffError::FormatError(TiffFormatError::StripTileTagConflict) => {
            "damaged: it does not say where its pixels lie".to_owned()
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
