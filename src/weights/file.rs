//! safetensors files, read with care and written whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read as _;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use serde::Deserialize;

use super::NamedTensor;
use crate::error::{Error, Result};
use crate::unfinished::write_whole;

fn weights_error(path: &Path, reason: impl ToString) -> Error {
    Error::Weights {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// All tensors of a safetensors file, converted to f32.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Weights`] where it is no safetensors file or holds integers.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| weights_error(path, format!("is no safetensors file: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let values = f32_values(&view).ok_or_else(|| {
            let dtype = view.dtype();
            weights_error(
                path,
                format!("{name} has dtype {dtype:?}; only floats are weights"),
            )
        })?;
        let shape = view.shape().to_vec();
        tensors.insert(name.to_string(), NamedTensor { shape, values });
    }
    Ok(tensors)
}

/// The metadata of a safetensors file; reads its header alone.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_metadata(path: &Path) -> Result<HashMap<String, String>> {
    let mut file = fs::File::open(path).map_err(Error::io(path))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    let known = file.metadata().map_err(Error::io(path))?.len();
    if length > known {
        let reason = "is no safetensors file: its header is longer than the file";
        return Err(weights_error(path, reason));
    }
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__", default)]
        metadata: HashMap<String, String>,
    }
    let header: Header = serde_json::from_reader(std::io::BufReader::new(file.take(length)))
        .map_err(|error| weights_error(path, format!("is no safetensors file: {error}")))?;
    Ok(header.metadata)
}

fn f32_values(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::F64 => convert(bytes, |entry| f64::from_le_bytes(entry) as f32),
        Dtype::F16 => convert(bytes, |entry| f16::from_le_bytes(entry).to_f32()),
        Dtype::BF16 => convert(bytes, |entry| bf16::from_le_bytes(entry).to_f32()),
        _ => return None,
    })
}

fn convert<const SIZE: usize>(bytes: &[u8], read: impl Fn([u8; SIZE]) -> f32) -> Vec<f32> {
    bytes
        .as_chunks::<SIZE>()
        .0
        .iter()
        .map(|entry| read(*entry))
        .collect()
}

/// Writes f32 tensors to a temporary neighbour, syncs it and renames it.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be written, [`Error::Weights`] where the tensors make no file.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors_with(path, tensors, metadata)
}

/// [`write_safetensors`] with metadata of one's own.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_with(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    // not `serialize_to_file`, whose files only their owner may read
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| weights_error(path, error))?;
    write_whole(path, &bytes)
}

/// Writes f32 tensors under the final name, tensor by tensor, and syncs the file.
///
/// # Errors
/// As [`write_safetensors`].
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => Error::io(path)(source),
        other => weights_error(path, other),
    })?;
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|file| file.sync_all())
        .map_err(Error::io(path))
}

impl View for &NamedTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(
            self.values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        )
    }

    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}
