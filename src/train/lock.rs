//! One run folder, one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const NAME: &str = "lock";

/// Held as long as a run writes to its folder. The system lets go of it with the process, so that what a killed run left
/// behind locks nobody out.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    _file: File,
}

impl RunLock {
    /// Locks the folder, which must exist.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the process which holds it, [`Error::Io`] where no lock can be had.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // where locks bind readers too, as on Windows, the number stays unknown
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                let reason = format!("{holder} trains in this folder; name another one with --out");
                return Err(Error::checkpoint(folder, reason));
            }
            Err(TryLockError::Error(source)) => return Err(Error::io(&path)(source)),
        }
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(Error::io(&path))?;
        Ok(Self { path, _file: file })
    }

    /// Removes the file as well, while it is still held.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
