//! One run folder, one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const NAME: &str = "lock";

/// Windows' errors for a file system without locks: ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED.
#[cfg(windows)]
const NO_LOCKS: [i32; 2] = [1, 50];
/// The same elsewhere: Lustre without `-o flock`, NFS without its lock service, many FUSE file systems.
#[cfg(unix)]
const NO_LOCKS: [i32; 4] = [libc::ENOSYS, libc::ENOLCK, libc::EOPNOTSUPP, libc::ENOTSUP];

/// Held as long as a run writes to its folder. The system releases it with the process, so a killed run locks
/// nobody out.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    keeps_out: bool,
    _file: File,
}

impl RunLock {
    /// Locks the folder, which must exist.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] that names the process which holds it, [`Error::Io`] if locking fails on a file system
    /// that has locks.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::take_by(folder, File::try_lock)
    }

    fn take_by(
        folder: &Path,
        try_lock: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Self> {
        let path = folder.join(NAME);
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(Error::io(&path))?;
        let keeps_out = match try_lock(&file) {
            Ok(()) => true,
            Err(TryLockError::Error(error)) if is_without_locks(&error) => false,
            Err(TryLockError::WouldBlock) => {
                // if locks also bind readers, as on Windows, the process ID stays unknown
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                let reason =
                    format!("{holder} trains in this folder; choose another one with `out`");
                return Err(Error::checkpoint(folder, reason));
            }
            Err(TryLockError::Error(source)) => {
                drop(file);
                if is_new {
                    let _ = std::fs::remove_file(&path);
                }
                return Err(Error::io(&path)(source));
            }
        };
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(Error::io(&path))?;
        Ok(Self {
            path,
            keeps_out,
            _file: file,
        })
    }

    /// Whether it keeps other processes out; not on a file system that has no locks.
    pub fn keeps_out(&self) -> bool {
        self.keeps_out
    }

    /// Removes the file as well, while it is still held.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_without_locks(error: &std::io::Error) -> bool {
    let is_known = |code| NO_LOCKS.contains(&code);
    error.kind() == ErrorKind::Unsupported || error.raw_os_error().is_some_and(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_system_without_locks_is_no_obstacle() {
        let digits = crate::unfinished::unique_digits().unwrap();
        let folder = std::env::temp_dir().join(format!("ibot-lock-{digits}"));
        std::fs::create_dir(&folder).unwrap();
        let take = |code: i32| {
            let error = std::io::Error::from_raw_os_error(code);
            let failed = |_: &File| Err(TryLockError::Error(error));
            RunLock::take_by(&folder, failed)
        };
        for code in NO_LOCKS {
            let lock = take(code).unwrap();
            assert!(!lock.keeps_out(), "{code}");
            lock.remove();
        }
        let message = take(libc::EIO).unwrap_err().to_string();
        assert!(message.contains("lock: "), "{message}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert!(RunLock::take(&folder).unwrap().keeps_out());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
