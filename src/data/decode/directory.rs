//! The first directory (IFD) of a TIFF or BigTIFF file, or of EXIF data: which tags it has, and where their values lie.

use std::collections::BTreeMap;
use std::io::{Cursor, Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Most values of a tag that are read; an image of 100 megapixels in tiles of 16 x 16 has 400 000.
const MAX_VALUES: u64 = 1 << 20;
/// Most tags of a directory; of a BigTIFF file it may claim 2^64.
const MAX_TAGS: u64 = 1 << 16;

/// Tags that are read (TIFF 6.0, its technical notes, and DNG 1.7).
pub mod tag {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const NEW_SUBFILE_TYPE: u16 = 254;
    pub const IMAGE_WIDTH: u16 = 256;
    pub const IMAGE_LENGTH: u16 = 257;
    pub const BITS_PER_SAMPLE: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const FILL_ORDER: u16 = 266;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const ORIENTATION: u16 = 274;
    pub const SAMPLES_PER_PIXEL: u16 = 277;
    pub const STRIP_BYTE_COUNTS: u16 = 279;
    pub const PLANAR_CONFIGURATION: u16 = 284;
    pub const COLOR_MAP: u16 = 320;
    pub const TILE_LENGTH: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_BYTE_COUNTS: u16 = 325;
    pub const SUB_IFDS: u16 = 330;
    pub const INK_SET: u16 = 332;
    pub const EXTRA_SAMPLES: u16 = 338;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const YCBCR_COEFFICIENTS: u16 = 529;
    pub const YCBCR_SUBSAMPLING: u16 = 530;
    pub const REFERENCE_BLACK_WHITE: u16 = 532;
    pub const DNG_VERSION: u16 = 50706;
}

const SHORT: u16 = 3;

/// A tag's type, how many values it has, and the place in the file of the field that holds them or their offset.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u16,
    count: u64,
    field: u64,
}

/// A directory.
#[derive(Debug)]
pub struct Directory {
    is_big: bool,
    is_little_endian: bool,
    entries: BTreeMap<u16, Entry>,
    /// Whether it lies in the file to its end.
    pub is_whole: bool,
    /// Whether another page follows.
    pub has_next: bool,
}

impl Directory {
    /// The first directory of `file`.
    pub fn read(file: &mut (impl Read + Seek)) -> Result<Self> {
        file.rewind()?;
        let magic: [u8; 4] = bytes(file)?;
        let mut directory = Self {
            is_big: magic.contains(&43),
            is_little_endian: magic[0] == b'I',
            entries: BTreeMap::new(),
            is_whole: true,
            has_next: false,
        };
        if directory.is_big {
            // the size of offsets, always 8, and two zeros
            let _: [u8; 4] = bytes(file)?;
        }
        let start = directory.offset(file)?;
        file.seek(SeekFrom::Start(start))?;
        let count_bytes = if directory.is_big { 8 } else { 2 };
        let count = directory.number(file, count_bytes)?;
        if count > MAX_TAGS {
            return Err(damaged());
        }
        for at in 0..count {
            let size = 4 + 2 * directory.offset_bytes();
            let at = start + count_bytes + at * size;
            match directory.entry(file, at) {
                // As other readers do: of a tag that is there twice, the first one.
                Ok((tag, entry)) => _ = directory.entries.entry(tag).or_insert(entry),
                Err(_) => {
                    directory.is_whole = false;
                    break;
                }
            }
        }
        // Some writers leave it out at the end of the file.
        directory.has_next = directory.offset(file).is_ok_and(|next| next != 0);
        Ok(directory)
    }

    /// The entry at place `at`, where the file stands.
    fn entry(&self, file: &mut impl Read, at: u64) -> Result<(u16, Entry)> {
        let tag = self.number(file, 2)? as u16;
        let kind = self.number(file, 2)? as u16;
        let count = self.offset(file)?;
        let _ = self.offset(file)?;
        let field = at + 4 + self.offset_bytes();
        Ok((tag, Entry { kind, count, field }))
    }

    /// Whether the tag is there.
    pub fn has(&self, tag: u16) -> bool {
        self.entries.contains_key(&tag)
    }

    /// The whole numbers of a tag, none if it is absent or of another type; rationals are rounded to thousandths.
    pub fn numbers(&self, file: &mut (impl Read + Seek), tag: u16) -> Result<Vec<u64>> {
        let Some((size, count, place)) = self.place(file, tag)? else {
            return Ok(Vec::new());
        };
        let is_rational = self.entries.get(&tag).is_some_and(|entry| entry.kind == 5);
        file.seek(SeekFrom::Start(place))?;
        let mut values = Vec::with_capacity(count as usize);
        for _ in 0..count {
            values.push(if is_rational {
                let (over, under) = (self.number(file, 4)?, self.number(file, 4)?);
                (over * 1000 + under / 2) / under.max(1)
            } else {
                self.number(file, size)?
            });
        }
        Ok(values)
    }

    /// Bytes of a value, number of values and place of the first; None for a tag that is absent or of another type.
    fn place(&self, file: &mut (impl Read + Seek), tag: u16) -> Result<Option<(u64, u64, u64)>> {
        let Some(&Entry { kind, count, field }) = self.entries.get(&tag) else {
            return Ok(None);
        };
        let size: u64 = match kind {
            1 | 7 => 1,
            SHORT => 2,
            4 | 13 => 4,
            5 | 16 | 18 => 8,
            _ => return Ok(None),
        };
        if count > MAX_VALUES {
            return Err(damaged());
        }
        if count * size <= self.offset_bytes() {
            return Ok(Some((size, count, field)));
        }
        file.seek(SeekFrom::Start(field))?;
        Ok(Some((size, count, self.offset(file)?)))
    }

    /// Sets the numbers of a tag that is there, as far as they fit in.
    pub fn set_numbers(&self, file: &mut [u8], tag: u16, values: &[u64]) -> Result<()> {
        let Some((size, count, place)) = self.place(&mut Cursor::new(&*file), tag)? else {
            return Ok(());
        };
        let places = file.get_mut(place as usize..).unwrap_or_default();
        let places = places.chunks_exact_mut(size as usize).take(count as usize);
        for (place, value) in places.zip(values) {
            if *value >> (8 * size - 1) >> 1 == 0 {
                let bytes = &value.to_be_bytes()[8 - place.len()..];
                place.copy_from_slice(bytes);
                if self.is_little_endian {
                    place.reverse();
                }
            }
        }
        Ok(())
    }

    /// The first whole number of a tag, or `default`.
    pub fn number_or(&self, file: &mut (impl Read + Seek), tag: u16, default: u64) -> Result<u64> {
        Ok(self.numbers(file, tag)?.first().copied().unwrap_or(default))
    }

    /// Sets a tag that is there to one number of 16 bits.
    pub fn set(&self, file: &mut [u8], tag: u16, value: u16) {
        let Some(entry) = self.entries.get(&tag) else {
            return;
        };
        let size = self.offset_bytes() as usize;
        let field = entry.field as usize;
        let short = |value: u16| {
            if self.is_little_endian {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let Some(bytes) = file.get_mut(field - size - 2..field + size) else {
            return;
        };
        bytes.fill(0);
        bytes[..2].copy_from_slice(&short(SHORT));
        // the count, which is 1
        bytes[if self.is_little_endian { 2 } else { 1 + size }] = 1;
        bytes[2 + size..][..2].copy_from_slice(&short(value));
    }

    fn offset_bytes(&self) -> u64 {
        if self.is_big { 8 } else { 4 }
    }

    fn offset(&self, file: &mut impl Read) -> Result<u64> {
        self.number(file, self.offset_bytes())
    }

    /// The next number, of `size` bytes.
    fn number(&self, file: &mut impl Read, size: u64) -> Result<u64> {
        let mut number = [0; 8];
        let bytes = &mut number[..size as usize];
        file.read_exact(bytes)?;
        if self.is_little_endian {
            bytes.reverse();
        }
        Ok(bytes
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, "its directory is invalid")
}
