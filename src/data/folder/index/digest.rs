//! The hash of the names of images.

use std::ffi::OsStr;
use std::path::Path;

/// Bytes that are hashed at a time: names are far shorter.
const BLOCK: usize = 64 << 10;

/// Hashes the relative paths of images, in order.
#[derive(Default)]
pub(in crate::data) struct NameDigest {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl NameDigest {
    /// The next image: its folders below the root, and its path in the last of them.
    pub fn add<'a>(&mut self, folders: impl Iterator<Item = &'a [u8]>, name: &'a Path) {
        let parts = name.iter().map(OsStr::as_encoded_bytes);
        for part in folders.chain(parts) {
            self.waiting.extend_from_slice(part);
            self.waiting.push(0);
        }
        self.waiting.push(0);
        if self.waiting.len() > BLOCK {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
    }

    pub fn finish(mut self) -> String {
        self.hasher.update(&self.waiting);
        self.hasher.finalize().to_hex().to_string()
    }
}
