//! The bytes of a file, wherever it lies.

use std::fs::File;
use std::io::{Cursor, Read, Result, Seek, SeekFrom};

use crate::data::storage::shards::window::Window;

/// The bytes of a file.
#[derive(Debug)]
pub(in crate::data) enum Bytes {
    File(File),
    /// Of an archive or an object.
    Part(Window),
    /// In memory, as a row of a table is.
    Whole(Cursor<Vec<u8>>),
}

impl Bytes {
    /// Says that all of it will be read, which takes fewer requests of a server.
    pub fn expect_all(&mut self) {
        if let Self::Part(window) = self {
            window.expect_all();
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        match self {
            Self::File(file) => file.read(to),
            Self::Part(window) => window.read(to),
            Self::Whole(bytes) => bytes.read(to),
        }
    }
}

impl Seek for Bytes {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Part(window) => window.seek(to),
            Self::Whole(bytes) => bytes.seek(to),
        }
    }
}
