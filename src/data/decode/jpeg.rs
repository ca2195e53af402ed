//! JPEG: which files go to `image`'s decoder and which to libjpeg.
//!
//! zune-jpeg, which `image` uses, is up to twice as fast, but silently returns wrong pixels for files in which
//! each component has a scan of its own (zune-image issues 422, 341), whose chroma is finer than its luma (273) or whose
//! color space the markers contradict (436), and refuses others that all viewers show. Those files are recognized by their
//! headers and read by libjpeg-turbo's code.

mod libjpeg;

use image::RgbImage;

use crate::data::storage::limits::unusable_size;

/// What the headers say, up to the first scan.
#[derive(Debug, Default)]
struct Headers<'a> {
    /// Second byte of the frame's marker.
    frame: u8,
    precision: u8,
    /// Width and height.
    size: [u32; 2],
    components: Vec<Component>,
    is_jfif: bool,
    /// Adobe's number for the color transform.
    adobe: Option<u8>,
    has_huffman_tables: bool,
    /// Components of the first scan.
    scanned: usize,
    exif: Option<&'a [u8]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Component {
    id: u8,
    /// Sampling factors across and down.
    sampling: [u8; 2],
}

/// EXIF data before the first scan.
pub fn exif(bytes: &[u8]) -> Option<&[u8]> {
    headers(bytes)?.exif
}

/// The image in the file `bytes`, not yet turned, by libjpeg; None if `image`'s decoder reads this one.
///
/// # Errors
/// The reason why neither reads it.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Option<RgbImage>, String> {
    let headers = headers(bytes).ok_or("truncated: its header ends too early")?;
    check_frame(headers.frame, headers.precision, headers.components.len())?;
    let [width, height] = headers.size;
    if let Some(reason) = unusable_size(width, height, max_pixels) {
        return Err(reason);
    }
    let is_complete = is_complete(bytes);
    if is_complete && headers.are_common() {
        return Ok(None);
    }
    // Of several scans the last may be missing as a whole, and arithmetic coding makes sense of any bytes.
    let may_lack_end = matches!(headers.frame, 0xc0 | 0xc1) && headers.is_one_scan();
    if !is_complete && !may_lack_end {
        return Err(libjpeg::NO_END.to_owned());
    }
    libjpeg::decode(bytes, headers.components.len(), is_complete).map(Some)
}

/// Refuses frames that neither decoder reads.
///
/// # Errors
/// What the frame is, and what to do.
pub fn check_frame(marker: u8, precision: u8, components: usize) -> Result<(), String> {
    let what = match (marker, precision, components) {
        (0xc3 | 0xc7 | 0xcb | 0xcf, ..) => "that is lossless".to_owned(),
        (0xc5 | 0xc6 | 0xcd | 0xce, ..) => "that is hierarchical".to_owned(),
        (_, 8, 1 | 3 | 4) => return Ok(()),
        (_, 8, count) => format!("with {count} color components"),
        (_, bits, _) => format!("with {bits} bits per sample"),
    };
    Err(format!(
        "JPEG {what} is not supported; save it as PNG or baseline JPEG"
    ))
}

impl Headers<'_> {
    fn is_one_scan(&self) -> bool {
        self.scanned == self.components.len()
    }

    /// Whether `image`'s decoder is right about such files.
    fn are_common(&self) -> bool {
        let is_common_color = match self.components.as_slice() {
            [gray] => gray.sampling == [1, 1],
            [luma, blue, red] => {
                [luma.id, blue.id, red.id] == [1, 2, 3]
                    && [blue.sampling, red.sampling] == [[1, 1]; 2]
                    && matches!(luma.sampling, [1 | 2, 1 | 2])
                    // Where there are one or two samples of chroma in a row, it errs by up to 8 levels of mean.
                    && (luma.sampling == [1, 1] || self.size.iter().all(|side| *side > 16))
                    && match self.adobe {
                        None | Some(1) => true,
                        Some(0) => !self.is_jfif,
                        _ => false,
                    }
            }
            // CMYK, which has more conventions than programs.
            _ => false,
        };
        matches!(self.frame, 0xc0 | 0xc2)
            && self.has_huffman_tables
            && (self.frame == 0xc2 || self.is_one_scan())
            && is_common_color
    }
}

/// Walks the markers up to the first scan; None if the file ends before or has no frame.
fn headers(bytes: &[u8]) -> Option<Headers<'_>> {
    let mut headers = Headers::default();
    let mut rest = bytes.get(2..)?;
    loop {
        rest = &rest[rest.iter().position(|byte| *byte == 0xff)?..];
        rest = &rest[rest.iter().position(|byte| *byte != 0xff)?..];
        let (marker, behind) = rest.split_first()?;
        // no marker, or one without a segment
        if matches!(marker, 0 | 1 | 0xd0..=0xd8) {
            rest = behind;
            continue;
        }
        let (length, _) = behind.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).max(2);
        let (segment, behind) = behind.split_at_checked(length)?;
        let segment = &segment[2..];
        rest = behind;
        match marker {
            0xc4 => headers.has_huffman_tables = true,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                headers.frame = *marker;
                let ([precision, h0, h1, w0, w1, count], rest) = segment.split_first_chunk()?;
                headers.precision = *precision;
                headers.size = [[*w0, *w1], [*h0, *h1]].map(|size| u16::from_be_bytes(size).into());
                let components = rest.chunks_exact(3).take(usize::from(*count));
                headers.components = components
                    .map(|c| Component {
                        id: c[0],
                        sampling: [c[1] >> 4, c[1] & 15],
                    })
                    .collect();
            }
            0xe0 if segment.starts_with(b"JFIF\0") => headers.is_jfif = true,
            0xe1 if segment.starts_with(b"Exif\0\0") && headers.exif.is_none() => {
                headers.exif = Some(segment);
            }
            0xee if segment.starts_with(b"Adobe") => headers.adobe = segment.get(11).copied(),
            0xda => {
                headers.scanned = usize::from(*segment.first()?);
                return (headers.frame != 0).then_some(headers);
            }
            0xd9 => return None,
            _ => {}
        }
    }
}

/// Whether the JPEG file `bytes` reaches its end marker; decoders paint what is missing gray and do not complain.
fn is_complete(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        let Some(at) = rest.iter().position(|&byte| byte == 0xff) else {
            return false;
        };
        rest = &rest[at..];
        match rest {
            [0xff, 0xd9, ..] => return true,
            // The start of another file, whose end is not that of this one.
            [0xff, 0xd8, ..] => return false,
            // Fill byte, escaped data, and markers without a segment.
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, 0x00 | 0x01 | 0xd0..=0xd7, ..] => rest = &rest[2..],
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
    fn end_marker_counts_outside_of_segments_only() {
        // A comment segment that contains an end marker, as an EXIF thumbnail does.
        let comment = [0xff, 0xd8, 0xff, 0xfe, 0, 4, 0xff, 0xd9];
        assert!(!is_complete(&comment));
        let complete: Vec<u8> = comment
            .iter()
            .copied()
            .chain([1, 0xff, 0, 0xff, 0xd9])
            .collect();
        assert!(is_complete(&complete));
        assert!(!is_complete(&complete[..complete.len() - 1]));
        // Markers may be preceded by any number of fill bytes.
        let filled = [0xff, 0xd8, 0xff, 0xff, 0xfe, 0, 3, 7, 0xff, 0xff, 0xd9];
        assert!(is_complete(&filled));
    }
}
