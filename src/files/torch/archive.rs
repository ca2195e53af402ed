//! Files of `torch.save`: a zip archive with one pickle and one entry for each storage.
//!
//! Nothing in the pickle is run: see [`super::pickle`]. The archive is read by the `zip` crate rather than by hand: it
//! knows archives above 4 GB and checks the checksum of each entry, which tells a broken download from a good file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::{Error, Result, printable};
use crate::files::other_files::{RESAVE, fault};
use crate::files::state_dict::NamedTensor;
use crate::files::torch::objects::object;
use crate::files::torch::pickle::{Pickle, parse};
use crate::files::torch::value::{Object, TensorView, Value};

/// Bound on the pickle; of student, teacher and AdamW of 40 blocks it has 266 928 bytes.
const MAX_PICKLE_BYTES: u64 = 1 << 28;
/// Bound on dicts in dicts; state dicts in checkpoints take 2 to 4.
const MAX_DEPTH: usize = 16;
/// Bound on the visited entries of dicts.
const MAX_ENTRIES: usize = 1 << 20;
/// So many bytes tell what a file is.
const START: u64 = 4096;
/// Longer names are no parameter's: lightning's callbacks have such.
const MAX_NAME: usize = 1 << 10;
/// Bound on the entries of all tensors for each byte of the file: views may share or repeat, but not without end.
const MAX_ENTRIES_PER_BYTE: u64 = 4;

/// All float tensors of a file of `torch.save`, converted to f32; nested dicts give names joined by dots.
///
/// Skipped: tensors of integers and booleans, lists, whatever lies under a key that is not a string (an optimizer's
/// state), and every other object. Nothing in the file is executed.
///
/// # Errors
/// [`Error::Io`] where it cannot be read; [`Error::Weights`] where it has another format, is damaged or holds none.
pub fn read_pytorch(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    let (mut archive, bytes) = open(path)?;
    let pickle = archive.pickle().map_err(|fault| fault.at(path))?;
    tensors(&pickle, bytes, |storage| archive.storage(storage)).map_err(|fault| fault.at(path))
}

/// Names of the tensors that [`read_pytorch`] gives.
///
/// # Errors
/// As there.
pub(in crate::files) fn tensor_names(path: &Path) -> Result<Vec<String>> {
    let (mut archive, _) = open(path)?;
    let pickle = archive.pickle().map_err(|fault| fault.at(path))?;
    let pickle = parsed(&pickle).map_err(|fault| fault.at(path))?;
    let named = named(&pickle).map_err(|fault| fault.at(path))?;
    Ok(named.into_iter().map(|(name, _)| name).collect())
}

/// The archive at `path`, and its bytes.
fn open(path: &Path) -> Result<(Archive<BufReader<File>>, u64)> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let bytes = file.get_ref().metadata().map_err(Error::io(path))?.len();
    let mut start = Vec::new();
    let read = file.by_ref().take(START).read_to_end(&mut start);
    read.and_then(|_| file.rewind()).map_err(Error::io(path))?;
    check_format(&start).map_err(|reason| refused(path, reason))?;
    let archive = Archive::open(file, bytes).map_err(|fault| fault.at(path))?;
    Ok((archive, bytes))
}

fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Weights {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

/// Fails before it is known in which file.
type Checked<T> = std::result::Result<T, Fault>;

/// What is wrong.
#[derive(Debug)]
enum Fault {
    Io(std::io::Error),
    Content(String),
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(source) => Error::io(path)(source),
            Self::Content(reason) => refused(path, reason),
        }
    }

    fn damaged(what: impl std::fmt::Display) -> Self {
        Self::Content(format!("is damaged: {what}; download or save it again"))
    }
}

fn check_format(start: &[u8]) -> std::result::Result<(), String> {
    if start.starts_with(b"PK") {
        return Ok(());
    }
    let reason = "is not a file of torch.save; a safetensors file needs the extension .safetensors";
    Err(fault(start).unwrap_or_else(|| reason.into()))
}

struct Archive<R> {
    zip: ZipArchive<R>,
    /// The folder that all entries lie in, with a slash.
    folder: String,
    file_bytes: u64,
}

impl<R: Read + Seek> Archive<R> {
    fn open(reader: R, file_bytes: u64) -> Checked<Self> {
        let zip = ZipArchive::new(reader).map_err(zip_fault)?;
        let has = |name: &str| zip.file_names().any(|entry| entry.ends_with(name));
        if has("/constants.pkl") {
            let remedy = "save its weights instead: torch.save(module.state_dict(), NEW_FILE)";
            return Err(Fault::Content(format!(
                "is a TorchScript program; {remedy}"
            )));
        }
        let folder = zip
            .file_names()
            .find_map(|name| name.strip_suffix("data.pkl"))
            .filter(|folder| folder.ends_with('/'))
            .map(str::to_string);
        if folder.is_none() && has(".npy") {
            let reason = "is an archive of NumPy arrays (.npz), as Google's weights for JAX; use timm's file of this model";
            return Err(Fault::Content(reason.into()));
        }
        let Some(folder) = folder else {
            let reason = "is a zip archive but not a file of torch.save: it has no data.pkl";
            return Err(Fault::Content(reason.into()));
        };
        let mut archive = Self {
            zip,
            folder,
            file_bytes,
        };
        match archive.entry("byteorder", 16) {
            Ok(order) if order != b"little" => {
                let reason = format!("has big-endian numbers; save it on another machine {RESAVE}");
                Err(Fault::Content(reason))
            }
            // files before torch 2.1 do not say
            _ => Ok(archive),
        }
    }

    fn pickle(&mut self) -> Checked<Vec<u8>> {
        self.entry("data.pkl", MAX_PICKLE_BYTES)
    }

    fn storage(&mut self, name: &str) -> Checked<Vec<u8>> {
        self.entry(&format!("data/{name}"), u64::MAX)
    }

    fn entry(&mut self, name: &str, max_bytes: u64) -> Checked<Vec<u8>> {
        let name = format!("{}{name}", self.folder);
        let mut entry = self.zip.by_name(&name).map_err(zip_fault)?;
        let size = entry.size();
        if entry.compressed_size() != size {
            return Err(Fault::Content(format!(
                "is compressed; save it again {RESAVE}"
            )));
        }
        if size > max_bytes {
            return Err(Fault::damaged(format!(
                "{} has {size} bytes",
                printable(&name)
            )));
        }
        // not the size that the archive claims, which may be anything
        let capacity = usize::try_from(size.min(self.file_bytes)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(capacity);
        entry
            .read_to_end(&mut bytes)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => Fault::damaged(format!(
                    "{}: {error} (it has none if saved after set_crc32_options(False))",
                    printable(&name)
                )),
                std::io::ErrorKind::UnexpectedEof => {
                    Fault::damaged(format!("{}: {error}", printable(&name)))
                }
                _ => Fault::Io(error),
            })?;
        Ok(bytes)
    }
}

fn zip_fault(error: ZipError) -> Fault {
    match error {
        ZipError::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            Fault::Io(source)
        }
        ZipError::UnsupportedArchive(_) => Fault::Content(format!(
            "is compressed or encrypted; save it again {RESAVE}"
        )),
        other => Fault::damaged(other),
    }
}

/// The tensors that `pickle` names, with entries from `read_storage`, which is asked once for each storage.
fn tensors(
    pickle: &[u8],
    file_bytes: u64,
    mut read_storage: impl FnMut(&str) -> Checked<Vec<u8>>,
) -> Checked<BTreeMap<String, NamedTensor>> {
    let pickle = parsed(pickle)?;
    let mut named = named(&pickle)?;
    let mut counts = named.iter().map(|(_, view)| view.count());
    let total = counts.try_fold(0u64, |total, count| {
        total.checked_add(u64::try_from(count?).ok()?)
    });
    if total.is_none_or(|total| total > file_bytes.saturating_mul(MAX_ENTRIES_PER_BYTE)) {
        let reason = "has tensors that repeat entries of the file too often; save contiguous ones";
        return Err(Fault::Content(reason.into()));
    }
    named.sort_by_key(|(_, view)| view.storage);
    let mut tensors = BTreeMap::new();
    for group in named.chunk_by(|(_, a), (_, b)| a.storage == b.storage) {
        let Some((_, first)) = group.first() else {
            continue;
        };
        let storage = read_storage(first.storage)?;
        for (name, view) in group {
            let values = view.values(&storage).ok_or_else(|| {
                Fault::damaged(format!("{} reaches beyond its storage", printable(name)))
            })?;
            let shape = view.shape.clone();
            let tensor = NamedTensor { shape, values };
            if tensors.insert(name.clone(), tensor).is_some() {
                let reason = format!(
                    "has two tensors called {}; rename one of them",
                    printable(name)
                );
                return Err(Fault::Content(reason));
            }
        }
    }
    Ok(tensors)
}

fn parsed(pickle: &[u8]) -> Checked<Pickle<'_>> {
    parse(pickle).map_err(|wrong| Fault::damaged(format!("its pickle: {wrong}")))
}

/// The tensors of a pickle by name; there is one at least.
fn named<'p>(pickle: &'p Pickle<'_>) -> Checked<Vec<(String, &'p TensorView<'p>)>> {
    let mut named = Vec::new();
    name_tensors(pickle, pickle.root, "", 0, &mut 0, &mut named)?;
    if named.is_empty() {
        let reason = "has no named float tensors; save a state dict: torch.save(model.state_dict(), NEW_FILE)";
        return Err(Fault::Content(reason.into()));
    }
    Ok(named)
}

fn name_tensors<'p>(
    pickle: &'p Pickle<'_>,
    value: Value<'p>,
    name: &str,
    depth: usize,
    visited: &mut usize,
    named: &mut Vec<(String, &'p TensorView<'p>)>,
) -> Checked<()> {
    match object(value, &pickle.objects) {
        Some(Object::Tensor(view)) if !name.is_empty() => named.push((name.to_string(), view)),
        Some(Object::Dict(entries)) if depth < MAX_DEPTH => {
            for [key, value] in entries {
                *visited += 1;
                if *visited > MAX_ENTRIES {
                    return Err(Fault::Content(format!(
                        "has more than {MAX_ENTRIES} entries; save only a state dict"
                    )));
                }
                let Value::Text(key) = key else {
                    continue;
                };
                if name.len() + key.len() >= MAX_NAME {
                    continue;
                }
                let separator = if depth == 0 { "" } else { "." };
                let name = format!("{name}{separator}{key}");
                name_tensors(pickle, *value, &name, depth + 1, visited, named)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
