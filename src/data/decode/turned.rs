//! The orientation of an image by the EXIF data of its file, found without reading its pixels.

use std::io::{BufRead, Error, ErrorKind, Read, Result, Seek, SeekFrom};

use image::ImageFormat;
use image::metadata::Orientation;

use crate::data::decode::orientation::{MAX_EXIF, RAW_PROFILE, of_file};

/// Chunks of a WebP file that are looked at: an animation has some for each frame.
const MOST_CHUNKS: usize = 1 << 16;

/// The orientation of a PNG or WebP file of this length; upright where nothing else is said, and for all other kinds.
///
/// In a PNG file only what lies before the pixels is looked at: many chunks of these lie before the rest, and a scan would read whole
/// files. A WebP file has all of them in one.
///
/// # Errors
/// The file cannot be read. That it ends too early is no error: decoding it says so.
pub(super) fn orientation_in(
    file: &mut (impl BufRead + Seek),
    format: ImageFormat,
    length: u64,
) -> Result<Orientation> {
    let metadata = match format {
        ImageFormat::Png => of_png(file),
        ImageFormat::WebP => of_webp(file, length),
        _ => Ok(Vec::new()),
    };
    match metadata {
        Ok(metadata) => Ok(of_file(&metadata, format)),
        Err(error) if is_short(&error) => Ok(Orientation::NoTransforms),
        Err(error) => Err(error),
    }
}

/// Whether a file ends before what was to be read.
pub(in crate::data) fn is_short(error: &Error) -> bool {
    // a part of a file refuses to seek past its end
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
    )
}

/// Width and height of an image that is turned so.
pub(in crate::data) fn upright([width, height]: [u32; 2], orientation: Orientation) -> [u32; 2] {
    let is_on_its_side = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    if is_on_its_side {
        [height, width]
    } else {
        [width, height]
    }
}

/// The chunks before the pixels that may hold EXIF data, as a PNG file of their own.
fn of_png(file: &mut (impl BufRead + Seek)) -> Result<Vec<u8>> {
    let (mut found, mut at) = (vec![0; 8], 8);
    loop {
        let head = bytes_at(file, at)?;
        let [length, kind] = halves(head);
        let length = u64::from(u32::from_be_bytes(length));
        match &kind {
            b"IDAT" | b"IEND" => return Ok(found),
            b"eXIf" | b"tEXt" | b"zTXt" | b"iTXt" if length <= MAX_EXIF => {
                let start = found.len();
                found.extend(head);
                // a long text of something else is not read
                let known = length.min(RAW_PROFILE.len() as u64);
                file.take(known).read_to_end(&mut found)?;
                if kind == *b"eXIf" || found[start + 8..] == *RAW_PROFILE {
                    file.take(length - known + 4).read_to_end(&mut found)?;
                } else {
                    found.truncate(start);
                }
            }
            _ => {}
        }
        at += 12 + length;
    }
}

/// The first chunk of EXIF data, as a WebP file of its own.
fn of_webp(file: &mut (impl BufRead + Seek), length: u64) -> Result<Vec<u8>> {
    let mut at = 12;
    for _ in 0..MOST_CHUNKS {
        // of a file without any, whose pixels are its only chunk, nothing more is read
        if at + 8 > length {
            break;
        }
        let head = bytes_at(file, at)?;
        let [kind, bytes] = halves(head);
        let bytes = u64::from(u32::from_le_bytes(bytes));
        if kind == *b"EXIF" {
            let mut found = [&[0; 12][..], &head[..]].concat();
            file.take(bytes.min(MAX_EXIF)).read_to_end(&mut found)?;
            return Ok(found);
        }
        // chunks begin at even places
        at += 8 + bytes + (bytes & 1);
    }
    Ok(Vec::new())
}

fn bytes_at(file: &mut (impl BufRead + Seek), at: u64) -> Result<[u8; 8]> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn halves([a, b, c, d, e, f, g, h]: [u8; 8]) -> [[u8; 4]; 2] {
    [[a, b, c, d], [e, f, g, h]]
}
