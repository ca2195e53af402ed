//! Where results go, checked before the work that leads to them.

use std::path::{Path, PathBuf};

use ibot::unfinished::check_writable;
use ibot::{Error, Result};

/// Refuses what would be written among the pictures of `data`: sheets and maps would be pictures of a class of their own
/// the next time.
pub fn outside(flag: &str, path: &Path, data: &Path) -> Result<()> {
    if resolved(path).starts_with(resolved(data)) {
        let remedy = "lies among the pictures of --data: name a place elsewhere";
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// Refuses a folder that cannot be made, or a file of its name.
pub fn folder(flag: &str, path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        let remedy = "is a file; name a folder";
        return Err(Error::config(flag, path.display(), remedy));
    }
    // the first folder that is there must let this program write
    let there = path.ancestors().find(|path| path.is_dir());
    check_writable(&there.unwrap_or(Path::new(".")).join("ibot"))
}

/// Refuses a path that no PNG can be written to.
pub fn png(flag: &str, path: &Path) -> Result<()> {
    if path
        .extension()
        .is_none_or(|end| !end.eq_ignore_ascii_case("png"))
    {
        return Err(Error::config(flag, path.display(), "must end in .png"));
    }
    check_writable(path)
}

/// The absolute path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for there in absolute.ancestors() {
        if let (Ok(found), Ok(rest)) = (there.canonicalize(), absolute.strip_prefix(there)) {
            return found.join(rest);
        }
    }
    absolute
}
