//! A file of a data set, on its own, in a shard or on a server, opened once: its length and time come from the open file, and its start is
//! read once.

use std::fs::{self, File};
use std::io::{BufRead, Read, Result as IoResult, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use crate::data::storage::bytes::Bytes;
use crate::data::storage::limits::check_length;
use crate::data::storage::shards::{self, InShard, member};
use crate::data::storage::stamp::{Stamp, settled};
use crate::error::{Error, Result};

/// Bytes that are read at a time: most headers end in the first ones.
const BLOCK: usize = 8 << 10;

impl Stamp {
    /// That of a file or folder, which is followed if it is a link; none where it cannot be asked.
    pub fn of(path: &Path) -> Option<Self> {
        let (length, modified) = length_and_time(path)?;
        Some(Self {
            length,
            modified: settled(modified),
        })
    }
}

/// Bytes of a file or object, and when it was last written; of a file in a shard, when the shard was. None where it cannot be asked.
pub fn length_and_time(path: &Path) -> Option<(u64, SystemTime)> {
    match fs::metadata(path) {
        Ok(metadata) => Some((metadata.len(), metadata.modified().ok()?)),
        Err(_) => {
            let (length, modified) = shards::length_and_time(path).ok()??;
            Some((length, modified?))
        }
    }
}

/// All bytes of a file, on its own, in a shard or on a server.
///
/// # Errors
/// It cannot be read.
pub fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut opened = Opened::open(path)?;
    opened.file.expect_all();
    let read = opened.file.read_to_end(&mut bytes);
    read.map_err(Error::io(path))?;
    Ok(bytes)
}

/// An open file that is no folder, pipe or device.
pub(in crate::data) struct Opened {
    pub file: Bytes,
    length: u64,
    stamp: Stamp,
}

impl Opened {
    /// Opens a file, or an image in a shard.
    ///
    /// # Errors
    /// It cannot be opened, or is no file; a shard without it, or that has changed since it was listed.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match open(path) {
            Ok(file) => file,
            Err(error) => {
                let InShard {
                    bytes,
                    length,
                    modified,
                } = member(path)?.ok_or_else(|| Error::io(path)(error))?;
                let modified = modified.map_or(0, settled);
                return Ok(Self {
                    file: bytes,
                    length,
                    stamp: Stamp { length, modified },
                });
            }
        };
        let metadata = file.metadata().map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::data(path, "not a file"));
        }
        Ok(Self {
            file: Bytes::File(file),
            length: metadata.len(),
            stamp: Stamp::of_metadata(&metadata),
        })
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Its length, for `path` in the error.
    ///
    /// # Errors
    /// It is longer than any image of `max_pixels` pixels.
    pub fn length(&self, path: &Path, max_pixels: u64) -> Result<u64> {
        check_length(path, self.length, max_pixels)
    }
}

/// Does not wait for a pipe that has come in the place of a file.
#[cfg(unix)]
fn open(path: &Path) -> IoResult<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> IoResult<File> {
    // a folder cannot be opened as a file there, and the reason would not say so
    if fs::metadata(path)?.is_dir() {
        return Err(std::io::Error::other("not a file"));
    }
    File::open(path)
}

/// Reads a file in blocks and keeps the first, so that going back to the start reads nothing again.
pub(in crate::data) struct Blocks {
    file: Bytes,
    first: Vec<u8>,
    block: Vec<u8>,
    /// Where `block` begins.
    start: u64,
    at: u64,
}

impl Blocks {
    pub fn new(mut file: Bytes) -> IoResult<Self> {
        let mut first = vec![0; BLOCK];
        let length = file.read(&mut first)?;
        first.truncate(length);
        Ok(Self {
            file,
            first,
            block: Vec::new(),
            start: 0,
            at: 0,
        })
    }

    /// The start of the file, up to 8 KiB.
    pub fn first(&self) -> &[u8] {
        &self.first
    }
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> IoResult<&[u8]> {
        let inside = |start: u64, block: &[u8]| {
            let place = usize::try_from(self.at.checked_sub(start)?).ok()?;
            (place < block.len()).then_some(place)
        };
        if let Some(place) = inside(0, &self.first) {
            return Ok(&self.first[place..]);
        }
        let place = match inside(self.start, &self.block) {
            Some(place) => place,
            None => {
                self.file.seek(SeekFrom::Start(self.at))?;
                self.block.resize(BLOCK, 0);
                let length = self.file.read(&mut self.block)?;
                self.block.truncate(length);
                self.start = self.at;
                0
            }
        };
        Ok(&self.block[place..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count as u64;
    }
}

impl Read for Blocks {
    fn read(&mut self, to: &mut [u8]) -> IoResult<usize> {
        let buffered = self.fill_buf()?;
        let count = buffered.len().min(to.len());
        to[..count].copy_from_slice(&buffered[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Seek for Blocks {
    fn seek(&mut self, to: SeekFrom) -> IoResult<u64> {
        let moved = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(_) => Some(self.file.seek(to)?),
        };
        let out_of_range = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        self.at = moved.ok_or_else(out_of_range)?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_what_the_file_holds() {
        let path = std::env::temp_dir().join(format!("ibot-blocks-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * BLOCK + 5).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let mut blocks = Blocks::new(Bytes::File(File::open(&path).unwrap())).unwrap();
        assert_eq!(blocks.first(), &bytes[..BLOCK]);
        for at in [0, 2 * BLOCK + 3, 7, BLOCK - 1, 3 * BLOCK + 5, BLOCK] {
            assert_eq!(blocks.seek(SeekFrom::Start(at as u64)).unwrap(), at as u64);
            let mut rest = Vec::new();
            blocks.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, &bytes[at..], "from {at}");
        }
        assert_eq!(blocks.seek(SeekFrom::End(-5)).unwrap(), 3 * BLOCK as u64);
        assert_eq!(
            blocks.seek(SeekFrom::Current(-1)).unwrap(),
            3 * BLOCK as u64 - 1
        );
        assert!(blocks.seek(SeekFrom::Current(i64::MIN)).is_err());
        fs::remove_file(&path).unwrap();
    }
}
