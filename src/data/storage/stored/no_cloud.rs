//! A program without the feature `cloud`: every address is refused.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use crate::data::storage::stored::facts::Facts;

/// There is none.
#[derive(Debug)]
pub(in crate::data) struct Object(Infallible);

impl Object {
    pub fn known(_path: &Path) -> Result<Self> {
        Err(refused())
    }

    pub fn asked(_path: &Path) -> Result<Self> {
        Err(refused())
    }

    pub fn facts(&self) -> Facts {
        match self.0 {}
    }

    pub fn get(&self, _start: u64, _length: u64) -> Result<Bytes> {
        match self.0 {}
    }
}

fn refused() -> Error {
    let reason = "this program reads no addresses: build it with the feature `cloud`";
    Error::new(ErrorKind::Unsupported, reason)
}

pub(in crate::data) fn outage(_path: &Path) -> Option<String> {
    None
}

pub(in crate::data) fn is_folder(_path: &Path) -> Result<bool> {
    Err(refused())
}

pub(in crate::data) fn folders_in(_path: &Path) -> Result<Vec<OsString>> {
    Err(refused())
}

pub(in crate::data) fn objects_in(_folder: &Path, _stop: &AtomicBool) -> Result<Vec<PathBuf>> {
    Err(refused())
}
