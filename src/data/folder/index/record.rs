//! What is known of an image and of a folder: records of a fixed size.

use image::ImageFormat;
use image::metadata::Orientation;

use crate::data::decode::depth::{Depth, Unused};
use crate::data::decode::header::Header;
use crate::data::storage::stamp::Stamp;

/// Bytes of a record, of either kind.
pub(in crate::data) const RECORD: usize = 40;
/// No label, no parent.
pub(in crate::data) const NONE: u32 = u32::MAX;

/// A number stands for the place in these lists: they may grow at their ends only.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
];
const DEPTHS: [Depth; 3] = [Depth::Bits8, Depth::Bits16, Depth::Float];
const UNUSED: [Option<Unused>; 4] = [
    None,
    Some(Unused::Pages),
    Some(Unused::ChannelsButOne),
    Some(Unused::Channels),
];

/// An image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct ImageRecord {
    /// Where its name ends among the names of all; it begins where that of the image before ends.
    pub name_end: u64,
    pub stamp: Stamp,
    /// Number of its folder.
    pub folder: u32,
    pub header: Header,
}

/// A folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Folder {
    /// Where its name ends among those of all folders; that of one without a parent is a path.
    pub name_end: u64,
    /// When its entries last changed, as [`Stamp::modified`].
    pub modified: i64,
    /// Its number in the file system; 0 where there are none.
    pub identity: u64,
    /// Number of the folder that it is in, which is smaller than its own; [`NONE`] of a root.
    pub parent: u32,
    /// Class of its images, or [`NONE`].
    pub label: u32,
    /// Files that are not images.
    pub others: u32,
}

/// Width and height, upright, and kind and orientation; None of a kind of file that no scan finds.
pub(in crate::data) fn words_of_header(header: Header) -> Option<[u32; 3]> {
    let Header {
        format,
        width,
        height,
        orientation,
        depth,
        unused,
    } = header;
    let format = FORMATS.iter().position(|of| *of == format)?;
    let depth = DEPTHS.iter().position(|of| *of == depth)?;
    let unused = UNUSED.iter().position(|of| *of == unused)?;
    let kind = (format | depth << 8 | unused << 16) as u32;
    // EXIF's number, from 1 to 8
    let orientation = u32::from(orientation.to_exif()) << 24;
    Some([width, height, kind | orientation])
}

/// None where the numbers are those of no image.
pub(in crate::data) fn header_of_words([width, height, kind]: [u32; 3]) -> Option<Header> {
    let part = |shift: u32| (kind >> shift & 0xff) as usize;
    Some(Header {
        width,
        height,
        format: *FORMATS.get(part(0))?,
        depth: *DEPTHS.get(part(8))?,
        unused: *UNUSED.get(part(16))?,
        orientation: Orientation::from_exif(part(24) as u8)?,
    })
}

impl ImageRecord {
    /// None of a kind of file that no scan finds.
    pub fn to_bytes(self) -> Option<[u8; RECORD]> {
        let [width, height, kind] = words_of_header(self.header)?;
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.name_end.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.stamp.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.stamp.modified.to_le_bytes());
        let words = [self.folder, width, height, kind];
        for (bytes, word) in bytes[24..].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Some(bytes)
    }

    /// None where the bytes are those of no image.
    pub fn of_bytes(bytes: &[u8; RECORD]) -> Option<Self> {
        Some(Self {
            name_end: long(bytes, 0),
            stamp: Stamp {
                length: long(bytes, 8),
                modified: long(bytes, 16).cast_signed(),
            },
            folder: word(bytes, 24),
            header: header_of_words([word(bytes, 28), word(bytes, 32), word(bytes, 36)])?,
        })
    }
}

impl Folder {
    pub fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.name_end.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.modified.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.to_le_bytes());
        let words = [self.parent, self.label, self.others];
        for (bytes, word) in bytes[24..].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub fn of_bytes(bytes: &[u8; RECORD]) -> Self {
        Self {
            name_end: long(bytes, 0),
            modified: long(bytes, 8).cast_signed(),
            identity: long(bytes, 16),
            parent: word(bytes, 24),
            label: word(bytes, 28),
            others: word(bytes, 32),
        }
    }
}

fn word(bytes: &[u8; RECORD], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| u32::from_le_bytes(*word))
}

fn long(bytes: &[u8; RECORD], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |long| u64::from_le_bytes(*long))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let image = ImageRecord {
            name_end: 1 << 40,
            stamp: Stamp {
                length: 12,
                modified: -34,
            },
            folder: 5,
            header: Header {
                format: ImageFormat::Tiff,
                width: 7,
                height: u32::MAX,
                orientation: Orientation::Rotate270,
                depth: Depth::Float,
                unused: Some(Unused::Channels),
            },
        };
        let bytes = image.to_bytes().unwrap();
        assert_eq!(ImageRecord::of_bytes(&bytes), Some(image));
        assert_eq!(bytes[39], 8, "EXIF's number");
        for (at, byte) in [(36, 6), (37, 6), (38, 6), (39, 0), (39, 9)] {
            let mut wrong = bytes;
            wrong[at] = byte;
            assert_eq!(ImageRecord::of_bytes(&wrong), None, "byte {at}: {byte}");
        }
        let folder = Folder {
            name_end: 3,
            modified: 4,
            identity: u64::MAX,
            parent: NONE,
            label: 1,
            others: 2,
        };
        assert_eq!(Folder::of_bytes(&folder.to_bytes()), folder);
    }
}
