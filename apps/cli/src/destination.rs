//! Output paths, checked before the work starts. A drawing replaces drawings of ibot alone, weights replace weights of `ibot export`,
//! features replace features, and nothing replaces a file of a run or one that the command reads. Other tables, pages and ONNX files
//! replace a file of their name.

use std::path::{Path, PathBuf};

use ibot::data::drawing::{check_drawing, is_drawn};
use ibot::error::{counted, printable};
use ibot::files::model::read_card;
use ibot::files::read_metadata;
use ibot::path_text::is_inside;
use ibot::unfinished::{check_writable, try_to_write};
use ibot::{Error, Result};

/// Refuses a path inside the image folder `data`: contact sheets and maps would be read as images of their own class
/// the next time.
pub fn outside(flag: &str, path: &Path, data: &Path) -> Result<()> {
    other_than(flag, path, data)?; // a list
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

/// Folders above a file in which a run is looked for: a checkpoint's is `RUN/checkpoints/step-000000120`.
const ABOVE: usize = 3;

/// Refuses to write over what is in a run: with a model as a folder, or a file, also through links.
pub fn outside_runs(flag: &str, path: &Path) -> Result<()> {
    let target = resolved(path);
    let is_in_run = || {
        let mut checkpoints = target.ancestors().take(ABOVE);
        let checkpoints = checkpoints.find(|folder| folder.ends_with("checkpoints"));
        let folders = [target.parent(), checkpoints.and_then(Path::parent)];
        folders.into_iter().flatten().any(is_run)
    };
    // the proposed commands write one into the run, which has none of its own
    let is_onnx = target.extension().is_some_and(|ending| ending == "onnx");
    if is_run(&target) || target.is_file() && !is_onnx && is_in_run() {
        let remedy = "would replace weights of a run: choose another place";
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// Whether a folder is that of a run of pre-training or fine-tuning, or a checkpoint, which may lie anywhere.
fn is_run(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let is_checkpoint = has("B3SUMS") && has("state.safetensors");
    has("run.json") || is_checkpoint || has("config.toml") && has("metrics.jsonl")
}

/// Refuses weights, or files to be written beside them, that `ibot export` did not write: those of another program, or a
/// classifier.
pub fn own_weights(flag: &str, weights: &Path, beside: &[&str]) -> Result<()> {
    let beside = beside.iter().map(|name| weights.with_file_name(name));
    let mut files = std::iter::once(weights.to_path_buf()).chain(beside);
    let there = files.find(|file| file.exists());
    if let Some(there) = there.filter(|_| !is_exported(weights)) {
        let remedy = "exists and is not of `ibot export`: choose another place";
        return Err(Error::config(flag, there.display(), remedy));
    }
    Ok(())
}

/// A file of another size than the run's has no card, but its program's name.
fn is_exported(weights: &Path) -> bool {
    let card = read_card(weights).ok().flatten();
    let metadata = read_metadata(weights).unwrap_or_default();
    let program = metadata.get("software").map(String::as_str);
    card.map_or(program == Some("ibot"), |card| card.classes.is_none())
}

/// Refuses a file that the command reads.
pub fn other_than(flag: &str, path: &Path, read: &Path) -> Result<()> {
    if path.is_file() && resolved(path) == resolved(read) {
        let remedy = "is a file that this command reads: choose another place";
        return Err(Error::config(flag, path.display(), remedy));
    }
    Ok(())
}

/// [`outside`] for a folder and the files that will be in it.
pub fn outside_with(flag: &str, folder: &Path, names: &[&str], data: &Path) -> Result<()> {
    outside(flag, folder, data)?;
    let mut names = names.iter();
    names.try_for_each(|name| other_than(flag, &folder.join(name), data))
}

/// Refuses a folder in which a file with the name of one's own drawings is none.
pub fn drawings(folder: &Path, is_own: impl Fn(&str) -> bool) -> Result<()> {
    // some file systems do not tell upper and lower case apart
    let ignores_case = cfg!(any(windows, target_os = "macos"));
    let is_own = |name: &str| is_own(name) || ignores_case && is_own(&name.to_lowercase());
    named(folder, is_own)
        .iter()
        .try_for_each(|file| check_drawing(file))
}

/// Removes the drawings of an earlier call, by their names, from beside those that were `written`.
pub fn remove_earlier(
    folder: &Path,
    written: &[PathBuf],
    is_own: impl Fn(&str) -> bool,
    note: impl Fn(&str),
) {
    // some file systems do not tell upper and lower case apart
    let written: Vec<_> = written.iter().map(|file| lower(file)).collect();
    let mut earlier = named(folder, is_own);
    earlier.retain(|file| !written.contains(&lower(file)) && is_drawn(file).unwrap_or(false));
    for file in &earlier {
        if let Err(error) = std::fs::remove_file(file) {
            return note(&Error::io(file)(error).to_string());
        }
    }
    if let Some(first) = earlier.first() {
        note(&format!(
            "removed {} of an earlier call, such as {}",
            counted(earlier.len(), "drawing"),
            printable(first)
        ));
    }
}

fn lower(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase()
}

/// The files of a folder with these names, sorted; none where there is no folder.
fn named(folder: &Path, is_named: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name().to_str().is_some_and(&is_named));
    let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
    files.sort();
    files
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

/// Refuses a path that a drawing cannot be written to.
pub fn png(flag: &str, path: &Path) -> Result<()> {
    file(flag, path, "png")?;
    check_drawing(path)
}

/// Refuses a path that a JSON file cannot be written to.
pub fn json(flag: &str, path: &Path) -> Result<()> {
    file(flag, path, "json")
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
            // of a file that is there nothing is left to join, and a slash would make it a folder
            return found.join(rest).components().collect();
        }
    }
    absolute
}
