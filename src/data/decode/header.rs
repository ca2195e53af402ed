//! The first bytes of an image file: its kind, by content, and its size, without decoding it.

use std::io::{BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use image::metadata::Orientation;
use image::{ImageFormat, ImageReader, Limits};

use crate::data::decode::depth::{Depth, Unused};
use crate::data::decode::drawing::{HEAD_BYTES, is_drawing};
use crate::data::decode::kind::{MAGIC_BYTES, kind};
use crate::data::decode::orientation::of_exif;
use crate::data::decode::tiff::Layout;
use crate::data::decode::turned::{is_short, orientation_in, upright};
use crate::data::decode::{gif, jpeg};
use crate::data::storage::limits::{HEADER_BYTES, in_words};
use crate::data::storage::opened::{Blocks, Opened};
use crate::error::{Error, Result};

/// Start of a segment of EXIF data in a JPEG file.
const EXIF: &[u8] = b"Exif\0\0";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its kind.
    pub format: ImageFormat,
    /// Pixels per row of the upright image.
    pub width: u32,
    /// Rows of the upright image.
    pub height: u32,
    /// How the image in the file is turned to be upright, by its EXIF data. Of a PNG file they are looked at before the pixels only:
    /// behind them, decoding sees them first.
    pub orientation: Orientation,
    /// What its colors are made of.
    pub depth: Depth,
    /// What of the file is not used, if anything.
    pub unused: Option<Unused>,
}

impl Header {
    /// Width times height.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Kind and size of the image in `path`; None if its content is that of no image and its name promises none.
///
/// # Errors
/// The file cannot be read; it starts like an image and its header makes no sense, or it is longer than any image of
/// `max_pixels` pixels; or it is an image, by its content or its ending, that is not read here.
pub fn read_header(path: &Path, max_pixels: u64) -> Result<Option<Header>> {
    let opened = Opened::open(path)?;
    read_opened(opened, path, max_pixels)
}

/// [`read_header`] of an open file.
///
/// # Errors
/// Those of [`read_header`].
pub(in crate::data) fn read_opened(
    opened: Opened,
    path: &Path,
    max_pixels: u64,
) -> Result<Option<Header>> {
    let length = opened.length(path, max_pixels);
    let file = Blocks::new(opened.file).map_err(Error::io(path))?;
    let magic = &file.first()[..file.first().len().min(MAGIC_BYTES as usize)];
    let format = kind(path, magic).map_err(|reason| Error::data(path, reason))?;
    let Some(format) = format else {
        return Ok(None);
    };
    // a long file that is no image is none of these
    header_in(file, format, path, length?).map(Some)
}

/// The header of an image of this kind and length, for `path` in errors.
pub(in crate::data) fn header_in(
    mut file: impl BufRead + Seek,
    format: ImageFormat,
    path: &Path,
    length: u64,
) -> Result<Header> {
    let unreadable = |reason: String| Error::data(path, reason);
    let (mut depth, mut unused, mut orientation) = (Depth::Bits8, None, Orientation::NoTransforms);
    let size = match format {
        // The decoder of `image` reads the whole file first: 100 kB instead of 1 for every image of a scan.
        ImageFormat::Jpeg => {
            let head = jpeg_head(&mut file.by_ref().take(HEADER_BYTES));
            let (size, turn) = head.map_err(|error| jpeg_error(error, path, length))?;
            orientation = turn;
            size
        }
        ImageFormat::Tiff => {
            let layout = Layout::read(&mut file).map_err(unreadable)?;
            (depth, unused) = (layout.depth(), layout.unused());
            orientation = layout.orientation;
            [layout.width, layout.height]
        }
        ImageFormat::Gif => gif::screen(file.by_ref().take(HEADER_BYTES))
            .map_err(|_| unreadable("truncated: its header ends too early".to_owned()))?,
        _ => {
            if format == ImageFormat::Png {
                depth = png_depth(&mut file, path)?;
            }
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(HEADER_BYTES);
            let mut reader = ImageReader::with_format(&mut file, format);
            reader.limits(limits);
            let (width, height) = reader
                .into_dimensions()
                .map_err(|error| unreadable(in_words(error)))?;
            let found = orientation_in(&mut file, format, length);
            orientation = found.map_err(Error::io(path))?;
            [width, height]
        }
    };
    let [width, height] = upright(size, orientation);
    Ok(Header {
        format,
        width,
        height,
        orientation,
        depth,
        unused,
    })
}

/// The depth of a PNG file, which is at its start before and after; refuses a drawing of this program.
fn png_depth(file: &mut (impl BufRead + Seek), path: &Path) -> Result<Depth> {
    let mut head = Vec::new();
    let read = file.take(HEAD_BYTES).read_to_end(&mut head);
    read.and_then(|_| file.rewind()).map_err(Error::io(path))?;
    if is_drawing(&head) {
        let reason = "a contact sheet or map that ibot drew, not a training image";
        return Err(Error::data(path, reason));
    }
    // of IHDR, the first chunk
    Ok(match head.get(24) {
        Some(16) => Depth::Bits16,
        _ => Depth::Bits8,
    })
}

/// Why a JPEG file of this length has no usable header.
fn jpeg_error(error: std::io::Error, path: &Path, length: u64) -> Error {
    match error.kind() {
        _ if is_short(&error) && length > HEADER_BYTES => {
            Error::data(path, "unreadable header: no frame in the first 64 MiB")
        }
        ErrorKind::UnexpectedEof => Error::data(path, "truncated: its header ends too early"),
        ErrorKind::InvalidData => Error::data(path, error.to_string()),
        _ => Error::io(path)(error),
    }
}

/// Width and height of a JPEG file as they lie in it, and its orientation.
fn jpeg_head(file: &mut (impl BufRead + Seek)) -> std::io::Result<([u32; 2], Orientation)> {
    let mut exif = None;
    file.seek(SeekFrom::Start(2))?;
    let Some(size) = next_frame(file, &mut exif)? else {
        let message = "unreadable header: no frame before the data";
        return Err(std::io::Error::new(ErrorKind::InvalidData, message));
    };
    if exif.is_none() {
        // decoding sees EXIF data as far as to the first scan; what is wrong there, it says itself
        match next_frame(file, &mut exif) {
            Err(error) if !is_short(&error) && error.kind() != ErrorKind::InvalidData => {
                return Err(error);
            }
            _ => {}
        }
    }
    let orientation = exif.as_deref().and_then(of_exif);
    Ok((size, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Width and height from the next frame header (SOF, ITU T.81 B.2.2), None where the data come first; keeps the first EXIF data on the way.
fn next_frame(
    file: &mut (impl BufRead + Seek),
    exif: &mut Option<Vec<u8>>,
) -> std::io::Result<Option<[u32; 2]>> {
    loop {
        match next_marker(file)? {
            // Every SOF; C4, C8 and CC are tables.
            marker @ (0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf) => {
                let mut frame = [0; 8];
                file.read_exact(&mut frame)?;
                jpeg::check_frame(marker, frame[2], frame[7].into())
                    .map_err(|reason| std::io::Error::new(ErrorKind::InvalidData, reason))?;
                let size = |at| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
                // to its end: what follows is a marker again
                file.seek_relative(i64::from(size(0)).max(8) - 8)?;
                return Ok(Some([size(5), size(3)]));
            }
            // No marker, or one without a segment.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            0xd9 | 0xda => return Ok(None),
            0xe1 if exif.is_none() => *exif = read_exif(file)?,
            _ => {
                let length = read_length(file)?;
                file.seek_relative(i64::from(length))?;
            }
        }
    }
}

/// The data of a segment (APP1) that is one of EXIF data; None of another one, such as XMP, which is passed over.
fn read_exif(file: &mut (impl BufRead + Seek)) -> std::io::Result<Option<Vec<u8>>> {
    let length = read_length(file)?;
    let mut data = vec![0; EXIF.len().min(length.into())];
    file.read_exact(&mut data)?;
    let rest = length - data.len() as u16;
    if data != EXIF {
        file.seek_relative(rest.into())?;
        return Ok(None);
    }
    data.resize(length.into(), 0);
    file.read_exact(&mut data[EXIF.len()..])?;
    Ok(Some(data))
}

/// Bytes of a segment that follow its length.
fn read_length(file: &mut impl Read) -> std::io::Result<u16> {
    let mut length = [0; 2];
    file.read_exact(&mut length)?;
    Ok(u16::from_be_bytes(length).saturating_sub(2))
}

/// Second byte of the next marker; what lies before it is passed over.
fn next_marker(file: &mut impl BufRead) -> std::io::Result<u8> {
    let mut byte = [0];
    while byte[0] != 0xff {
        file.read_exact(&mut byte)?;
    }
    while byte[0] == 0xff {
        file.read_exact(&mut byte)?;
    }
    Ok(byte[0])
}
