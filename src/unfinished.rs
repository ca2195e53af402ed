//! Files that appear under their name only once they are complete.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, if_there, printable};

/// A file under a temporary name; removed if it is dropped before it is renamed.
#[must_use]
pub(crate) struct Unfinished {
    path: PathBuf,
    /// None once it has its name: another process may write one of the temporary name then.
    temporary: Option<PathBuf>,
    /// Keeps other writers out until the file has its name.
    #[cfg(unix)]
    _lock: Option<File>,
}

impl Unfinished {
    /// Writes a temporary file next to `path` and syncs it; errors name `path`.
    pub(crate) fn write(
        path: &Path,
        write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<Self> {
        let (unfinished, mut file) = Self::create(path)?;
        write(&mut file).map_err(Error::io(path))?;
        unfinished.sync(file)?;
        Ok(unfinished)
    }

    /// An empty temporary file next to `path`, for what is never in memory as a whole; to be synced before it is finished.
    pub(crate) fn create(path: &Path) -> Result<(Self, BufWriter<File>)> {
        let target = behind_links(path);
        let temporary = temporary(&target);
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        // nobody's link of this name shall lead the bytes elsewhere
        if fs::symlink_metadata(&temporary).is_ok_and(|found| found.is_symlink()) {
            fs::remove_file(&temporary).map_err(Error::io(path))?;
        }
        let mut tries = 0;
        let file = loop {
            tries += 1;
            let file = options.open(&temporary).map_err(Error::io(path))?;
            // two processes that write one file would mix their bytes; where a file system has no locks, nobody knows
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                return Err(Error::data(path, "another process is writing it just now"));
            }
            // else another process has given it its name between the two; some file systems cannot tell
            if is_still(&file, &temporary) || tries == TRIES {
                break file;
            }
        };
        // what a process has left that was killed
        file.set_len(0).map_err(Error::io(path))?;
        let unfinished = Self {
            path: target,
            temporary: Some(temporary),
            #[cfg(unix)]
            _lock: file.try_clone().ok(),
        };
        Ok((unfinished, BufWriter::with_capacity(1 << 20, file)))
    }

    /// What it is to be called.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings all that was written to the disk, and closes the file: Windows may not rename an open one.
    pub(crate) fn sync(&self, mut file: BufWriter<File>) -> Result<()> {
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        synced.map_err(Error::io(&self.path))
    }

    /// Renames it, and syncs the folder so that the name survives a crash.
    pub(crate) fn finish(self) -> Result<()> {
        let path = self.path.clone();
        self.finish_as(&path)
    }

    /// [`Self::finish`] under another name. It stays in its folder, which may be on another disk than a link that leads there.
    pub(crate) fn finish_as(mut self, path: &Path) -> Result<()> {
        let own = behind_links(path);
        let path = &if own == self.path {
            own
        } else {
            self.path
                .with_file_name(path.file_name().unwrap_or_default())
        };
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, path).map_err(Error::io(path))?;
            self.temporary = None;
        }
        let folder = path.parent().filter(|path| *path != Path::new(""));
        sync_folder(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished {
    /// Frees the disk space of a failed write.
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Whether an open file has this path.
fn is_still(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let place = |found: fs::Metadata| (found.dev(), found.ino());
        let [own, there] = [file.metadata(), fs::metadata(path)].map(|found| found.ok().map(place));
        own == there
    }
    // not told apart there: two writers that are this close are none of one person
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// Attempts to open a temporary file that another process does not rename meanwhile.
const TRIES: usize = 8;

/// The file that symbolic links lead to, which is written and not the link, even where it is not there yet; else the path itself.
pub(crate) fn behind_links(path: &Path) -> PathBuf {
    let mut target = path.to_path_buf();
    // no more than systems follow
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&target) else {
            return target;
        };
        target = target.parent().unwrap_or(Path::new("")).join(next);
    }
    path.to_path_buf()
}

/// The temporary name of a file.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Refuses a path that no file can be written to, before the work whose result goes there: creates an empty file
/// next to it, and removes that.
///
/// # Errors
/// [`Error::Data`] where it is a folder, a device or a pipe, or its folder is missing, [`Error::Io`] where no file can be made.
pub fn check_writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::data(path, "is a folder; give a file in it"));
    }
    if path.exists() && !path.is_file() {
        // the finished file would take its name
        return Err(Error::data(path, "is a device or a pipe; give a file"));
    }
    let target = behind_links(path);
    let folder = target.parent().filter(|folder| *folder != Path::new(""));
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let reason = format!("there is no folder {}; create it first", printable(folder));
        return Err(Error::data(path, reason));
    }
    // the temporary name is longer than the final one, and must also be valid
    if_there(path, fs::symlink_metadata(temporary(&target)))?;
    let folder = folder.unwrap_or(Path::new("."));
    try_to_write(folder).map_err(Error::io(path))
}

/// Creates an empty file in a folder, and removes it.
///
/// # Errors
/// No file can be made there.
pub fn try_to_write(folder: &Path) -> std::io::Result<()> {
    // two processes that check the same folder must not collide
    let random = RandomState::new().build_hasher().finish();
    let probe = folder.join(format!(".ibot-{random:016x}.tmp"));
    File::create_new(&probe)?;
    fs::remove_file(&probe)
}

/// Writes a file atomically: it appears complete or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    Unfinished::write(path, |file| file.write_all(bytes))?.finish()
}

/// 128 random bits of the system as 32 digits, for a name that no other process takes. A process number is no such name:
/// those of two containers may be equal.
///
/// # Errors
/// The system gives no random bits.
pub fn unique_digits() -> std::io::Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bits)))
}

/// Syncs the names in a folder to disk; Windows does so by itself, and cannot open folders.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_stay_and_their_files_are_written() {
        let name = format!("ibot-unfinished-link-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let [file, link] = ["file.html", "link.html"].map(|name| folder.join(name));
        fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        check_writable(&link).unwrap();
        write_whole(&link, b"after").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"after");
        fs::remove_file(&file).unwrap();
        write_whole(&link, b"anew").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"anew");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_of_the_temporary_name_leads_nowhere() {
        let folder = std::env::temp_dir().join(format!("ibot-link-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [path, other] = ["x.npy", "other.txt"].map(|name| folder.join(name));
        fs::write(&other, "as it was").unwrap();
        std::os::unix::fs::symlink(&other, temporary(&path)).unwrap();
        write_whole(&path, b"whole").unwrap();
        assert!(!path.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read(&other).unwrap(), b"as it was");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn one_file_has_one_writer() {
        let folder = std::env::temp_dir().join(format!("ibot-writers-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.npy");
        fs::write(temporary(&path), "left by one that was killed").unwrap();
        let (first, mut file) = Unfinished::create(&path).unwrap();
        let refused = Unfinished::create(&path).err().unwrap().to_string();
        assert!(refused.contains("another process"), "{refused}");
        file.write_all(b"whole").unwrap();
        first.sync(file).unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        write_whole(&path, b"again").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = std::env::temp_dir().join(format!("ibot-writable-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let reason = |name: &str| check_writable(&folder.join(name)).unwrap_err().to_string();
        assert!(reason("").contains("is a folder"), "{}", reason(""));
        assert!(reason("no/x.npy").contains("there is no folder"));
        assert!(reason(&"n".repeat(300)).contains("nnn"));
        // the final name would fit, the longer temporary name would not
        assert!(reason(&"n".repeat(254)).contains("nnn"));
        fs::write(folder.join("there.npy"), "as it was").unwrap();
        #[cfg(unix)]
        {
            let device = check_writable(Path::new("/dev/null")).unwrap_err();
            assert!(device.to_string().contains("is a device"), "{device}");
        }
        for name in ["new.npy", "there.npy"] {
            check_writable(&folder.join(name)).unwrap();
        }
        let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(fs::read(left[0].path()).unwrap(), b"as it was");
        fs::remove_dir_all(&folder).unwrap();
    }
}
