//! The first bytes of a picture file: its kind, by content, and its size, without decoding it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use image::{ImageFormat, ImageReader, Limits};

use super::decode::memory_limit;
use crate::error::{Error, Result, printable};

/// Bytes that tell every kind apart.
const MAGIC_BYTES: u64 = 16;
/// A header that needs more memory than this, or that ends later in the file, is no header.
pub(super) const HEADER_BYTES: u64 = 64 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its kind.
    pub format: ImageFormat,
    /// Pixels per row, before EXIF orientation.
    pub width: u32,
    /// Rows, before EXIF orientation.
    pub height: u32,
}

impl Header {
    /// Width times height.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// The kind of picture that `magic`, the first 16 bytes of a file, belongs to; None if to none that is read here.
pub fn sniff(magic: &[u8]) -> Option<ImageFormat> {
    match magic {
        [0xff, 0xd8, 0xff, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(ImageFormat::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some(ImageFormat::WebP),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(ImageFormat::Tiff),
        // A text may start with "BM": the four bytes at 6 are reserved and zero, the header size at 14 is small.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, _, _, _, _, _, 0, ..] => Some(ImageFormat::Bmp),
        _ => None,
    }
}

/// Kind and size of the picture in `path`; None if its content is that of no picture.
///
/// # Errors
/// The file cannot be read, or it starts like a picture and its header makes no sense or it is longer than any picture
/// of `max_pixels` pixels.
pub fn read_header(path: &Path, max_pixels: u64) -> Result<Option<Header>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut magic = Vec::new();
    (&mut file)
        .take(MAGIC_BYTES)
        .read_to_end(&mut magic)
        .map_err(Error::io(path))?;
    let Some(format) = sniff(&magic) else {
        return Ok(None);
    };
    let length = check_length(path, max_pixels)?;
    file.rewind().map_err(Error::io(path))?;
    let (width, height) = if format == ImageFormat::Jpeg {
        // The decoder of `image` reads the whole file first: 100 kB instead of 1 for every picture of a scan.
        jpeg_size(&mut file.take(HEADER_BYTES)).map_err(|error| match error.kind() {
            // `Take` refuses to seek past its end.
            ErrorKind::UnexpectedEof | ErrorKind::InvalidInput if length > HEADER_BYTES => {
                Error::data(
                    path,
                    "its header is unreadable: no frame in the first 64 MiB",
                )
            }
            ErrorKind::UnexpectedEof => Error::data(path, "truncated: its header ends too early"),
            ErrorKind::InvalidData => Error::data(path, error.to_string()),
            _ => Error::io(path)(error),
        })?
    } else {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(HEADER_BYTES);
        let mut reader = ImageReader::with_format(file, format);
        reader.limits(limits);
        reader.into_dimensions().map_err(|error| {
            let error = printable(error.to_string().trim_end());
            Error::data(path, format!("its header is unreadable: {error}"))
        })?
    };
    Ok(Some(Header {
        format,
        width,
        height,
    }))
}

/// The length of a file; refuses what is none, or none any more, and one longer than its decoder's memory may be.
///
/// A file may claim any length at no cost (holes), and is read as a whole.
pub(super) fn check_length(path: &Path, max_pixels: u64) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(Error::data(path, "not a file"));
    }
    let (length, most) = (metadata.len(), memory_limit(max_pixels));
    if length > most {
        let reason = format!(
            "{length} bytes are more than the {most} that go with max_pixels = {max_pixels}; \
             raise max_pixels (flag --max-pixels; in settings under [folder]) if the file is sound"
        );
        return Err(Error::data(path, reason));
    }
    Ok(length)
}

/// Width and height from the frame header (SOF, ITU T.81 B.2.2) of a JPEG file.
fn jpeg_size(file: &mut (impl BufRead + Seek)) -> std::io::Result<(u32, u32)> {
    file.seek(SeekFrom::Start(2))?;
    loop {
        match next_marker(file)? {
            // Every SOF; C4, C8 and CC are tables.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                let mut frame = [0; 7];
                file.read_exact(&mut frame)?;
                let size = |at| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
                return Ok((size(5), size(3)));
            }
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => {}
            0xd9 | 0xda => {
                let message = "its header is unreadable: no frame before the data";
                return Err(std::io::Error::new(ErrorKind::InvalidData, message));
            }
            _ => {
                let length = read_length(file)?;
                file.seek_relative(i64::from(length))?;
            }
        }
    }
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

/// Whether the EXIF chunk of the WebP file `bytes`, if any, lies inside of it; its reader allocates what it claims.
pub(super) fn webp_exif_fits(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let [a, b, c, d, e, f, g, h, data @ ..] = rest {
        let length = u32::from_le_bytes([*e, *f, *g, *h]) as usize;
        if [*a, *b, *c, *d] == *b"EXIF" {
            return length <= data.len();
        }
        // Chunks begin at even places.
        rest = data
            .get(length.saturating_add(length & 1)..)
            .unwrap_or_default();
    }
    true
}

/// Whether the JPEG file `bytes` reaches its end marker; decoders paint what is missing gray and do not complain.
pub(super) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        let Some(at) = rest.iter().position(|&byte| byte == 0xff) else {
            return false;
        };
        rest = &rest[at..];
        match rest {
            [0xff, 0xd9, ..] => return true,
            // Fill byte, escaped data, and markers without a segment.
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, 0x00 | 0x01 | 0xd0..=0xd8, ..] => rest = &rest[2..],
            [0xff, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(next) = rest.get(2 + length..) else {
                    return false;
                };
                rest = next;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_picture() {
        assert_eq!(sniff(b"BMW and Audi are cars"), None);
        assert_eq!(sniff(b"II. Chapter"), None);
        assert_eq!(sniff(b""), None);
        assert_eq!(sniff(b"GIF89a with more"), Some(ImageFormat::Gif));
    }

    #[test]
    fn end_marker_counts_outside_of_segments_only() {
        // A comment segment that contains an end marker, as an EXIF thumbnail does.
        let comment = [0xff, 0xd8, 0xff, 0xfe, 0, 4, 0xff, 0xd9];
        assert!(!jpeg_is_complete(&comment));
        let complete: Vec<u8> = comment
            .iter()
            .copied()
            .chain([1, 0xff, 0, 0xff, 0xd9])
            .collect();
        assert!(jpeg_is_complete(&complete));
        assert!(!jpeg_is_complete(&complete[..complete.len() - 1]));
        // Markers may be preceded by any number of fill bytes.
        let filled = [0xff, 0xd8, 0xff, 0xff, 0xfe, 0, 3, 7, 0xff, 0xff, 0xd9];
        assert!(jpeg_is_complete(&filled));
    }
}
