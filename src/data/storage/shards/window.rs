//! Open shards: few at a time, each read at any place by any thread; and parts of them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::data::storage::stored::{MOST_AT_ONCE, Object, Stored};
use crate::lock::lock;

/// Files that stay open. Systems allow a process 256 (macOS) to 1024 (Linux); one more that is used costs an `open`, about 5 us.
const MOST: usize = 64;

/// The files that were used last.
static OPEN: Mutex<VecDeque<(PathBuf, Arc<Stored>)>> = Mutex::new(VecDeque::new());

/// The open file of this name, which is opened where it is not open.
pub(super) fn opened(path: &Path) -> Result<Arc<Stored>> {
    {
        let mut files = lock(&OPEN);
        let found = files.iter().rposition(|(of, _)| of == path);
        if let Some(entry) = found.and_then(|at| files.remove(at)) {
            let file = entry.1.clone();
            files.push_back(entry);
            return Ok(file);
        }
    }
    // not under the lock: on a network this may wait
    let file = Arc::new(Stored::open(path)?);
    let mut files = lock(&OPEN);
    files.push_back((path.to_path_buf(), file.clone()));
    if files.len() > MOST {
        files.pop_front();
    }
    Ok(file)
}

/// Lets go of the file of this name, which is another one now.
pub(super) fn close(path: &Path) {
    let mut files = lock(&OPEN);
    files.retain(|(of, _)| of != path);
}

/// Bytes that are asked of a server first: the header of an image is in them.
const FIRST: u64 = 64 << 10;
/// And of each request after the first: what follows is mostly read too, as far as the window goes.
const NEXT: u64 = MOST_AT_ONCE;

/// A part of an open file or of an object, read as a file of its own.
#[derive(Debug)]
pub(in crate::data) struct Window {
    file: Arc<Stored>,
    start: u64,
    length: u64,
    at: u64,
    ahead: Ahead,
}

/// What came from a server and is not all read.
#[derive(Debug, Default)]
struct Ahead {
    /// Its first byte in the object.
    start: u64,
    bytes: Bytes,
    has_asked: bool,
}

impl Window {
    /// `length` bytes from `start`.
    pub fn new(file: Arc<Stored>, start: u64, length: u64) -> Self {
        Self {
            file,
            start,
            length,
            at: 0,
            ahead: Ahead::default(),
        }
    }

    /// Says that all of it will be read: a server is asked for more at once.
    pub fn expect_all(&mut self) {
        self.ahead.has_asked = true;
    }
}

impl Ahead {
    /// Reads at `place` of an object, of which the window ends at `end`; `into` ends before.
    fn read(&mut self, object: &Object, into: &mut [u8], place: u64, end: u64) -> Result<usize> {
        let held = |ahead: &Self| {
            let from = usize::try_from(place.checked_sub(ahead.start)?).ok()?;
            ahead.bytes.get(from..).filter(|held| !held.is_empty())?;
            Some(ahead.bytes.slice(from..))
        };
        let held = match held(self) {
            Some(held) => held,
            None => {
                let wanted = if self.has_asked { NEXT } else { FIRST };
                let count = wanted.max(into.len() as u64);
                let count = count.min(MOST_AT_ONCE).min(end - place);
                (self.bytes, self.start) = (object.get(place, count)?, place);
                self.has_asked = true;
                self.bytes.clone()
            }
        };
        let count = held.len().min(into.len());
        into[..count].copy_from_slice(&held[..count]);
        Ok(count)
    }
}

impl Read for Window {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let left = self.length.saturating_sub(self.at);
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let place = self.start.checked_add(self.at);
        let place = place.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        let into = &mut into[..most];
        let count = match &*self.file {
            Stored::File(file) => read_at(file, into, place)?,
            Stored::Object(object) => {
                let end = self.start.saturating_add(self.length);
                self.ahead.read(object, into, place, end)?
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// Reads at a place, without moving the place where other threads read.
#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

/// Reads at a place; the place where others read moves, and all say where they read.
#[cfg(windows)]
fn read_at(file: &File, into: &mut [u8], offset: u64) -> Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}
