//! The images of an index: which still exist, and which changed.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ibot::data::{ImageFolder, ImageSource as _, length_and_time};
use ibot::embedding::EmbeddingTable;
use ibot::error::{counted, printable};
use ibot::path_text::{absolute, is_inside, path_of_text, path_text};
use ibot::{Error, Result};
use rayon::prelude::*;

/// What changed in the images of an index since it was made.
pub struct IndexState {
    /// Rows whose images still exist.
    pub there: Vec<usize>,
    /// Number of images that were written after the index.
    changed: usize,
    /// Whether one of their folders was: an image was added, renamed or removed.
    has_changed_folders: bool,
}

impl IndexState {
    pub fn of(index: &Path, table: &EmbeddingTable) -> Result<Self> {
        let written = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
        let made = written(index).map_err(Error::io(index))?;
        let paths: Vec<PathBuf> = table.paths.iter().map(|path| path_of_text(path)).collect();
        let times: Vec<Option<SystemTime>> = (paths
            .par_iter()
            .map(|path| length_and_time(path).map(|(_, time)| time)))
        .collect();
        let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        let is_newer = |time: &SystemTime| *time > made;
        Ok(Self {
            there: (0..times.len()).filter(|at| times[*at].is_some()).collect(),
            changed: times.iter().flatten().filter(|time| is_newer(time)).count(),
            has_changed_folders: folders
                .iter()
                .any(|folder| written(folder).as_ref().is_ok_and(is_newer)),
        })
    }

    /// The changes in words; none if nothing changed.
    pub fn difference(&self, images: usize) -> Option<String> {
        let gone = images - self.there.len();
        let mut parts = Vec::new();
        if gone > 0 {
            parts.push(format!("{gone} of {images} images are gone and left out"));
        }
        if self.changed > 0 {
            parts.push(format!("{} were changed since then", self.changed));
        }
        if self.has_changed_folders && gone == 0 {
            parts.push(
                "their folders were changed since then, and new images are not found".to_owned(),
            );
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
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
