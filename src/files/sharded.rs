//! A model in several files: an index in JSON that says which tensor is in which of them.
//!
//! Source: huggingface_hub, `split_torch_state_dict_into_shards`: `{"metadata": ..., "weight_map": {tensor: file}}`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::files::header::weights_error;

/// Bound on an index; that of DINOv2's giant with 40 blocks has 80 kB.
const MAX_BYTES: u64 = 1 << 24;

/// One file of several, and the tensors that are to be taken from it.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub file: PathBuf,
    pub names: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The names of the files that the index at `path` names, each with its tensors; none where it is another file.
///
/// # Errors
/// [`Error::Weights`] for a name that lies elsewhere; [`Error::Io`].
pub(super) fn files_of_index(path: &Path) -> Result<Option<BTreeMap<String, BTreeSet<String>>>> {
    let mut bytes = vec![0];
    let mut file = File::open(path).map_err(Error::io(path))?;
    // the length at the start of safetensors may look like a bracket, but is no JSON
    if file.read(&mut bytes).map_err(Error::io(path))? == 0 || bytes != b"{" {
        return Ok(None);
    }
    let read = file.take(MAX_BYTES).read_to_end(&mut bytes);
    read.map_err(Error::io(path))?;
    let Ok(Index { weight_map }) = serde_json::from_slice(&bytes) else {
        return Ok(None);
    };
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, file) in weight_map {
        let mut components = Path::new(&file).components();
        let is_name = matches!(components.next(), Some(Component::Normal(_)));
        if !is_name || components.next().is_some() {
            let reason = format!("names {}, which is not a file beside it", printable(&file));
            return Err(weights_error(path, reason));
        }
        files.entry(file).or_default().insert(name);
    }
    Ok(Some(files))
}

/// The files that the index at `path` names, sorted; none where it is another file.
///
/// # Errors
/// As [`files_of_index`]; [`Error::Weights`] where one of them is not there.
pub(super) fn parts_of(path: &Path) -> Result<Option<Vec<Part>>> {
    let Some(files) = files_of_index(path)? else {
        return Ok(None);
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let part = |(name, names): (String, BTreeSet<String>)| {
        let file = folder.join(&name);
        if !file.is_file() {
            let reason = format!(
                "names {}, which is not beside it; download all files of the model",
                printable(&name)
            );
            return Err(weights_error(path, reason));
        }
        Ok(Part { file, names })
    };
    files.into_iter().map(part).collect::<Result<_>>().map(Some)
}
