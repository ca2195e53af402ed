//! The images of an index: those that may have changed since, and those of other folders.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use ibot::data::{ImageFolder, ImageSource as _, length_and_time};
use ibot::embedding::EmbeddingTable;
use ibot::error::{counted, printable};
use ibot::path_text::{absolute, is_inside, path_of_text, path_text};
use ibot::{Error, Result};
use rayon::prelude::*;

/// What was written after the index, in words: images of which it does not say how they were, and their folders, in which an image was
/// then added, renamed or removed; `are_some_gone` of images that are left out already.
pub fn newer(index: &Path, table: &EmbeddingTable, are_some_gone: bool) -> Result<Option<String>> {
    let made = std::fs::metadata(index).and_then(|found| found.modified());
    let made = made.map_err(Error::io(index))?;
    // an image in an archive is as new as that
    let time = |path: &Path| match length_and_time(path) {
        Some((_, time)) => Some(time),
        None => std::fs::metadata(path)
            .and_then(|found| found.modified())
            .ok(),
    };
    let is_newer = |path: &Path| time(path).is_some_and(|time| time > made);
    let paths: Vec<PathBuf> = table.paths.iter().map(|path| path_of_text(path)).collect();
    let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
    let rows = (0..paths.len()).into_par_iter();
    let changed = rows.filter(|at| table.stamp(*at).is_none() && is_newer(&paths[*at]));
    let changed = changed.count();
    Ok(if changed > 0 {
        Some(format!(
            "{} changed after it was written",
            counted(changed, "image")
        ))
    } else if !are_some_gone && folders.into_iter().any(is_newer) {
        Some("their folders were changed since then, and new images are not found".to_owned())
    } else {
        None
    })
}

/// Refuses an index that has images of other folders too: to update it from a part of them would drop the features of the others.
pub fn refuse_images_elsewhere(
    index: &Path,
    table: &EmbeddingTable,
    data: &Path,
    folder: &ImageFolder,
) -> Result<()> {
    let own = (0..folder.len()).map(|at| Ok(path_text(&absolute(folder.name(at))?)));
    let own: HashSet<String> = own.collect::<Result<_>>()?;
    let is_other = |path: &&String| {
        let other = path_of_text(path);
        // an image of the folder that is gone, damaged or came by another path is no other
        !own.contains(*path) && !is_inside(&other, data) && length_and_time(&other).is_some()
    };
    let others: Vec<&String> = table.paths.par_iter().filter(is_other).collect();
    let Some(first) = others.first() else {
        return Ok(());
    };
    let reason = format!(
        "holds features of {} that are not in {}, such as {}; search all of them, or choose another file",
        counted(others.len(), "image"),
        printable(data),
        printable(first)
    );
    Err(Error::data(index, reason))
}
