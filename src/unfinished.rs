//! A file that is not there until all of it is.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file under a temporary name, whole and synced; removed when it is dropped without having been renamed.
#[must_use]
pub(crate) struct Unfinished<'a> {
    path: &'a Path,
    temporary: PathBuf,
}

impl<'a> Unfinished<'a> {
    /// Writes a neighbour of `path` and syncs it; errors name `path`.
    pub(crate) fn write(
        path: &'a Path,
        write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(Error::io(path))?;
        let unfinished = Self { path, temporary };
        let mut file = BufWriter::with_capacity(1 << 20, file);
        write(&mut file)
            .and_then(|()| file.flush())
            .and_then(|()| file.get_ref().sync_all())
            .map_err(Error::io(path))?;
        Ok(unfinished)
    }

    /// Gives it its name, and makes that last.
    pub(crate) fn finish(self) -> Result<()> {
        fs::rename(&self.temporary, self.path).map_err(Error::io(self.path))?;
        let folder = self.path.parent().filter(|path| *path != Path::new(""));
        sync_folder(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished<'_> {
    /// A full disk gets its space back; a renamed file has no temporary name any more.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    Unfinished::write(path, |file| file.write_all(bytes))?.finish()
}

/// 128 random bits of the system as 32 digits, for a name that no other process takes. A process number is no such name:
/// those of two containers may be equal.
///
/// # Errors
/// The system gives no random bits.
pub(crate) fn unique_digits() -> std::io::Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bits)))
}

/// Makes names in the folder last; Windows syncs folders by itself, and cannot open them.
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
