//! Images of one folder that are in another one too: under another spelling of their path, as links or as copies.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ibot::Result;
use ibot::data::{ImageFolder, ImageSource as _, equal_files};
use ibot::path_text::absolute;

/// By the name of an image of `data`, the name of the same image in `others`: that of the same file, or else of one with the same
/// bytes.
///
/// # Errors
/// [`ibot::Error::Data`] where a server no longer answers.
pub fn counterparts(data: &ImageFolder, others: &ImageFolder) -> Result<HashMap<PathBuf, PathBuf>> {
    let names = |folder: &ImageFolder| (0..folder.len()).map(|at| folder.name(at)).collect();
    let [of_data, of_others]: [Vec<PathBuf>; 2] = [names(data), names(others)];
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
        found.extend(copies.map(|(_, at)| (part.name(*at), of_others[*other].clone())));
    }
    Ok(found)
}

/// The path without links; of an image in an archive or on a server, from any folder.
fn real(path: &Path) -> PathBuf {
    let found = path.canonicalize().or_else(|_| absolute(path));
    found.unwrap_or_else(|_| path.to_path_buf())
}
