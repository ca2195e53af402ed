//! Output paths, checked before the work starts.

use std::path::{Path, PathBuf};

use ibot::path_text::is_inside;
use ibot::unfinished::{check_writable, try_to_write};
use ibot::{Error, Result};

/// Refuses a path inside the image folder `data`: contact sheets and maps would be read as images of their own class
/// the next time.
pub fn outside(flag: &str, path: &Path, data: &Path) -> Result<()> {
    outside_of(flag, path, data, "the image folder --data")
}

/// Refuses a path inside a folder of masks, which a drawing could replace.
pub fn outside_masks(flag: &str, path: &Path, masks: &Path) -> Result<()> {
    outside_of(flag, path, masks, "the folder of masks")
}

fn outside_of(flag: &str, path: &Path, folder: &Path, name: &str) -> Result<()> {
    if is_inside(path, folder) {
        let remedy = format!("is inside {name}: choose another place");
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// Refuses to write over the weights of a run: with a model as a folder, or a file of their name.
pub fn outside_runs(flag: &str, path: &Path) -> Result<()> {
    let is_run = |folder: &Path| folder.join("run.json").is_file();
    let is_weights = path
        .extension()
        .is_some_and(|ending| ending == "safetensors");
    let is_in_run = is_weights && path.exists() && path.parent().is_some_and(is_run);
    if is_run(path) || is_in_run {
        let remedy = "would replace weights of a run: choose another place";
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// Refuses a file that the command reads.
pub fn other_than(flag: &str, path: &Path, read: &Path) -> Result<()> {
    if resolved(path) == resolved(read) {
        let remedy = "is a file that this command reads: choose another name";
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// Refuses a folder that cannot be created, or a file of that name.
pub fn folder(flag: &str, path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        let remedy = "is a file; give a folder";
        return Err(Error::config(flag, path.display(), remedy));
    }
    // the nearest existing parent must be writable
    let there = path.ancestors().find(|path| path.is_dir());
    let there = there.unwrap_or(Path::new("."));
    try_to_write(there).map_err(|error| Error::data(there, format!("cannot write here: {error}")))
}

/// Refuses a path that a PNG cannot be written to.
pub fn png(flag: &str, path: &Path) -> Result<()> {
    file(flag, path, "png")
}

/// Refuses a path that a page cannot be written to.
pub fn html(flag: &str, path: &Path) -> Result<()> {
    file(flag, path, "html")
}

/// Refuses a path that a CSV file cannot be written to.
pub fn csv(flag: &str, path: &Path) -> Result<()> {
    file(flag, path, "csv")
}

fn file(flag: &str, path: &Path, end: &str) -> Result<()> {
    if path
        .extension()
        .is_none_or(|found| !found.eq_ignore_ascii_case(end))
    {
        return Err(Error::config(
            flag,
            path.display(),
            format!("must end in .{end}"),
        ));
    }
    check_writable(path)
}

/// The absolute path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for there in absolute.ancestors() {
        if let (Ok(found), Ok(rest)) = (there.canonicalize(), absolute.strip_prefix(there)) {
            return found.join(rest);
        }
    }
    absolute
}
