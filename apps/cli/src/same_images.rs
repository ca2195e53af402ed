//! Images of one folder that are in another one too: under another spelling of their path, as links or as copies.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ibot::Result;
use ibot::data::{ImageFolder, ImageSource as _, equal_files};
use ibot::path_text::absolute;

/// By the absolute path of an image of `data`, that of the same image in `others`: the same file, or else one with the same bytes.
///
/// # Errors
/// [`ibot::Error::Data`] where a server no longer answers.
pub fn counterparts(data: &ImageFolder, others: &ImageFolder) -> Result<HashMap<PathBuf, PathBuf>> {
    let names = |folder: &ImageFolder| -> Result<Vec<PathBuf>> {
        let names = (0..folder.len()).map(|at| folder.name(at));
        names.map(absolute).collect()
    };
    let (of_data, of_others) = (names(data)?, names(others)?);
    let places: HashMap<PathBuf, &PathBuf> =
        of_others.iter().map(|name| (real(name), name)).collect();
    let mut found = HashMap::new();
    let mut rest = Vec::new();
    for (at, name) in of_data.iter().enumerate() {
        match places.get(&real(name)) {
            Some(other) => _ = found.insert(name.clone(), (*other).clone()),
            None => rest.push(at),
        }
    }
    if rest.is_empty() {
        return Ok(found);
    }
    let part = data.part(&rest);
    for group in equal_files(&[others, &part], &AtomicBool::new(false))? {
        let Some((_, other)) = group.iter().find(|(folder, _)| *folder == 0) else {
            continue;
        };
        let copies = group.iter().filter(|(folder, _)| *folder == 1);
        found.extend(copies.map(|(_, at)| (of_data[rest[*at]].clone(), of_others[*other].clone())));
    }
    Ok(found)
}

/// An absolute path without links; of an image in an archive or on a server, as it is.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}
