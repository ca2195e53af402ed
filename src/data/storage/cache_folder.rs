//! The folder of what can be made anew: the demo set, indexes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use crate::error::{Error, Result};

/// Temporary files of this age belong to a process that is gone.
const STALE: Duration = Duration::from_secs(3600);

/// A folder `ibot` in the user's cache folder; without one, `ibot-NUMBER` among the temporary files, with the user's number.
///
/// # Errors
/// The folder among the temporary files cannot be made, or others may write in it.
pub(in crate::data) fn cache_folder() -> Result<PathBuf> {
    let variable = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        // by its specification, a relative XDG_CACHE_HOME is ignored; an empty variable counts as unset
        path.is_absolute().then_some(path)
    };
    let cache = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library").join("Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    match cache {
        Some(cache) => Ok(cache.join("ibot")),
        None => own_folder(&std::env::temp_dir()),
    }
}

/// The folder of indexes in it, which is made. The first call removes what writers that were killed left there.
///
/// # Errors
/// It cannot be made.
pub(in crate::data) fn index_folder() -> Result<PathBuf> {
    static CLEARED: Once = Once::new();
    let folder = cache_folder()?.join("index");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    CLEARED.call_once(|| remove_stale(&folder));
    Ok(folder)
}

/// Whether a temporary file belongs to a process that is gone.
pub(in crate::data) fn is_stale(file: &fs::Metadata) -> bool {
    let age = file.modified().ok().and_then(|at| at.elapsed().ok());
    age > Some(STALE)
}

/// Removes temporary files of processes that are gone; one that stays costs room alone.
fn remove_stale(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_temporary = path.extension().is_some_and(|ending| ending == "tmp");
        let is_old = || entry.metadata().is_ok_and(|metadata| is_stale(&metadata));
        if is_temporary && is_old() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A folder in `shared`, where all users write, that this one alone may write in.
#[cfg(unix)]
fn own_folder(shared: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    // SAFETY: reads a number of this process.
    let user = unsafe { libc::geteuid() };
    let folder = shared.join(format!("ibot-{user}"));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(&folder)(error));
        }
        _ => {}
    }
    // not what a link leads to: anyone may have put one here
    let found = fs::symlink_metadata(&folder).map_err(Error::io(&folder))?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
        return Ok(folder);
    }
    let reason = "is not a folder that only this user can write to; set HOME or XDG_CACHE_HOME, or give images with `data`";
    Err(Error::data(&folder, reason))
}

/// Windows gives each user a folder of temporary files.
#[cfg(not(unix))]
fn own_folder(shared: &Path) -> Result<PathBuf> {
    Ok(shared.join("ibot"))
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_among_temporary_files_is_this_users_alone() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let name = format!("ibot-cache-test-{}", std::process::id());
        let scratch = std::env::temp_dir().join(name);
        fs::create_dir(&scratch).unwrap();
        let folder = own_folder(&scratch).unwrap();
        let mode = || fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        assert_eq!(own_folder(&scratch).unwrap(), folder, "again");
        let refused = || {
            let message = own_folder(&scratch).unwrap_err().to_string();
            assert!(
                message.contains("ibot-") && message.contains("XDG_CACHE_HOME"),
                "{message}"
            );
        };
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        refused();
        fs::remove_dir(&folder).unwrap();
        let elsewhere = scratch.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &folder).unwrap();
        refused();
        fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn what_killed_writers_of_indexes_left_is_removed() {
        let name = format!("ibot-stale-test-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * STALE;
        for (name, is_old) in [("a.1.tmp", true), ("b.2.tmp", false), ("c.ibidx", true)] {
            let file = fs::File::create(folder.join(name)).unwrap();
            if is_old {
                file.set_modified(long_ago).unwrap();
            }
        }
        remove_stale(&folder);
        let left = ["a.1.tmp", "b.2.tmp", "c.ibidx"].map(|name| folder.join(name).exists());
        assert_eq!(left, [false, true, true]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
