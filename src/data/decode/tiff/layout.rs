//! What the samples of a TIFF file's first page are, by its directory.

use std::io::{ErrorKind, Read, Seek};

use image::metadata::Orientation;

use crate::data::decode::depth::{Depth, Unused};
use crate::data::decode::directory::{Directory, tag};
use crate::data::decode::kind::raw_photo;
use crate::data::decode::orientation::of_number;

const LZW: u64 = 5;

/// Bytes that the samples of a pixel may take.
const MAX_BYTES_PER_PIXEL: u64 = 16;

/// What the first samples of a pixel are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Color {
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
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::Gray { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr(_) => 3,
            Self::Cmyk => 4,
        }
    }
}

/// What the sample behind the color is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpha {
    None,
    Straight,
    /// The color is multiplied by it already (ExtraSamples = 1).
    Premultiplied,
}

/// What an image's samples are.
#[derive(Debug)]
pub struct Layout {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    /// Of a sample.
    pub(super) bits: u64,
    is_float: bool,
    /// Whether another page follows.
    has_more_pages: bool,
    pub(super) samples: usize,
    pub(super) color: Color,
    pub(super) alpha: Alpha,
    /// The first pixel is in the lowest bit of its byte (FillOrder = 2).
    pub(super) is_reversed: bool,
    pub(super) is_lzw: bool,
    pub(super) directory: Directory,
}

impl Layout {
    /// Reads the layout of the first page.
    ///
    /// # Errors
    /// The reason why this page cannot be shown.
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
        let format = numbers(file, tag::SAMPLE_FORMAT)?.first().copied();
        let format = format.unwrap_or(1);
        check_samples(bits, format)?;
        if samples.saturating_mul(bits) > MAX_BYTES_PER_PIXEL * 8 {
            return Err(not_read(&format!(
                "{samples} samples of {bits} bits per pixel"
            )));
        }
        // tiff 0.11.3 takes the last tiles of all planes but the first for whole ones, and panics.
        let height = first(file, tag::IMAGE_LENGTH, 0)?;
        let is_planar = samples > 1 && first(file, tag::PLANAR_CONFIGURATION, 1)? == 2;
        if is_planar && height % first(file, tag::TILE_LENGTH, 1)?.max(1) != 0 {
            return Err(not_read("separate color planes in tiles"));
        }
        let color = read_color(&directory, file, bits)?;
        if color.samples() as u64 > samples {
            return Err(format!(
                "damaged: {samples} samples per pixel are not a color"
            ));
        }
        let of_32_bits =
            |size: u64| u32::try_from(size).map_err(|_| "damaged: its size".to_owned());
        Ok(Self {
            width: of_32_bits(first(file, tag::IMAGE_WIDTH, 0)?)?,
            height: of_32_bits(height)?,
            orientation: of_number(first(file, tag::ORIENTATION, 1)?)
                .unwrap_or(Orientation::NoTransforms),
            bits,
            is_float: format == 3,
            has_more_pages: directory.has_next,
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

    /// What its colors are made of.
    pub fn depth(&self) -> Depth {
        match (&self.color, self.is_float, self.bits) {
            (Color::Gray { .. } | Color::Rgb, true, _) => Depth::Float,
            (Color::Gray { .. } | Color::Rgb, false, 16) => Depth::Bits16,
            _ => Depth::Bits8,
        }
    }

    /// What of the file is not used, if anything.
    pub fn unused(&self) -> Option<Unused> {
        let with_alpha = self.color.samples() + usize::from(self.alpha != Alpha::None);
        match (self.samples > with_alpha, self.has_more_pages) {
            (true, _) if self.color.samples() == 1 => Some(Unused::ChannelsButOne),
            (true, _) => Some(Unused::Channels),
            (false, true) => Some(Unused::Pages),
            (false, false) => None,
        }
    }
}

/// The file of a camera: a small copy first and the image in a directory below, or the sensor's values.
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
        "TIFF with {name} compression is not supported; save it as PNG, or with LZW"
    ))
}

fn check_samples(bits: u64, format: u64) -> Result<(), String> {
    match (format, bits) {
        (1, 1..=8 | 16) | (3, 16 | 32 | 64) => Ok(()),
        (1, _) => Err(not_read(&format!("integers of {bits} bits"))),
        (2, _) => Err(not_read("signed integers")),
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
                return Err(not_read("subsampled YCbCr colors"));
            }
            let range = numbers(file, tag::REFERENCE_BLACK_WHITE)?;
            let is_full = |of: &[u64]| of == [0, 255_000, 128_000, 255_000, 128_000, 255_000];
            if bits != 8 || !(range.is_empty() || is_full(&range)) {
                return Err(not_read("YCbCr colors outside the range 0 to 255"));
            }
            let shares = numbers(file, tag::YCBCR_COEFFICIENTS)?;
            let shares = <[u64; 3]>::try_from(shares).unwrap_or([299, 587, 114]);
            Ok(Color::YCbCr(shares.map(|share| share as f32 / 1000.0)))
        }
        3 => Err(not_read(&format!("a palette of {bits} bits"))),
        4 => Err(not_read("a mask")),
        8..=10 => Err(not_read("Lab colors")),
        32844 | 32845 => Err(not_read("LogLuv colors")),
        u64::MAX => Err("damaged: its color space is missing".to_owned()),
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

pub(super) fn not_read(what: &str) -> String {
    format!(
        "TIFF with {what} is not supported; save it as PNG, or with 8 or 16 bits of gray or RGB"
    )
}

pub(super) fn unreadable(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof => "truncated: its directory is outside the file".to_owned(),
        _ => format!("its header is unreadable: {error}"),
    }
}
