//! Files of disks, and objects of servers under addresses (`s3://`, `gs://`, `az://`, `http://`, `https://`), read at any place.

#[cfg(feature = "cloud")]
mod cloud;
#[cfg(not(feature = "cloud"))]
#[path = "no_cloud.rs"]
mod cloud;
mod facts;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Result;
use std::path::Path;

use crate::error::Error;
use crate::path_text::is_remote;

pub(in crate::data) use facts::Facts;

pub(in crate::data) use cloud::{Object, objects_in};

/// Most bytes of a request to a server, which must come within its time limit on slow links too.
pub(in crate::data) const MOST_AT_ONCE: u64 = 8 << 20;

/// To be called where a file could not be read: whether that is the file's own fault.
///
/// # Errors
/// [`Error::Data`] where nothing comes from its server any more.
pub(in crate::data) fn check_server(path: &Path) -> crate::Result<()> {
    match cloud::outage(path) {
        Some(reason) => Err(Error::data(path, reason)),
        None => Ok(()),
    }
}

/// An open file, or an object.
#[derive(Debug)]
pub(in crate::data) enum Stored {
    File(File),
    Object(Object),
}

impl Stored {
    /// Opens a file of the disk or of a server.
    ///
    /// # Errors
    /// It is missing or cannot be opened; a program without the feature `cloud`.
    pub fn open(path: &Path) -> Result<Self> {
        if is_remote(path) {
            Object::known(path).map(Self::Object)
        } else {
            File::open(path).map(Self::File)
        }
    }

    /// Of an object what was known when it was first asked for: parts of one that has changed since are refused.
    pub fn facts(&self) -> Result<Facts> {
        match self {
            Self::File(file) => file.metadata().map(|metadata| Facts::of(&metadata)),
            Self::Object(object) => Ok(object.facts()),
        }
    }
}

impl Facts {
    /// Those of a file now; a server is asked for them.
    ///
    /// # Errors
    /// As [`Stored::open`].
    pub fn now(path: &Path) -> Result<Self> {
        if is_remote(path) {
            Ok(Object::asked(path)?.facts())
        } else {
            fs::metadata(path).map(|metadata| Self::of(&metadata))
        }
    }
}

/// Whether this is a folder; an address is one where objects begin with it.
///
/// # Errors
/// A server does not say.
pub(in crate::data) fn is_folder(path: &Path) -> Result<bool> {
    if is_remote(path) {
        cloud::is_folder(path)
    } else {
        Ok(path.is_dir())
    }
}

/// Names of the folders in a folder; links to folders are some.
///
/// # Errors
/// It cannot be listed.
pub(in crate::data) fn folders_in(path: &Path) -> Result<Vec<OsString>> {
    if is_remote(path) {
        return cloud::folders_in(path);
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // a set without classes may have millions of files here, which are not to be asked one by one
        let is_folder = match entry.file_type() {
            Ok(kind) if !kind.is_symlink() => kind.is_dir(),
            _ => entry.path().is_dir(),
        };
        if is_folder {
            folders.push(entry.file_name());
        }
    }
    Ok(folders)
}

/// All bytes of a file.
///
/// # Errors
/// As [`Stored::open`].
pub(in crate::data) fn read_all(path: &Path) -> Result<Vec<u8>> {
    if is_remote(path) {
        let object = Object::asked(path)?;
        let length = object.facts().length;
        if length <= MOST_AT_ONCE {
            return Ok(object.get(0, length)?.into());
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let at = bytes.len() as u64;
            bytes.extend_from_slice(&object.get(at, MOST_AT_ONCE.min(length - at))?);
        }
        Ok(bytes)
    } else {
        fs::read(path)
    }
}
