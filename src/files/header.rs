//! The JSON at the start of a safetensors file: names, types and shapes, without the values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result, printable};

pub(super) fn weights_error(path: &Path, reason: impl ToString) -> Error {
    Error::Weights {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// Contents of a header.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    /// Texts that the writer added.
    #[serde(rename = "__metadata__", default)]
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name.
    #[serde(flatten)]
    pub tensors: BTreeMap<String, Entry>,
}

/// One tensor of a header.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    /// Type of its entries, such as `F32`.
    pub dtype: String,
    /// Where its bytes begin and end behind the header.
    pub data_offsets: [u64; 2],
}

impl Entry {
    /// Whether its entries can be weights.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype.as_str(), "F64" | "F32" | "F16" | "BF16")
    }
}

/// The header of the file at `path`.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Weights`] where it is no safetensors file, or is cut.
pub(super) fn read_header(path: &Path) -> Result<Header> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut length = [0; 8];
    if bytes < length.len() as u64 {
        return Err(weights_error(path, cut(bytes, length.len() as u64)));
    }
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    if length > bytes - 8 {
        let mut first = [0];
        // a header of text, whose length is not absurd, was one
        let began = bytes > 8 && file.read_exact(&mut first).is_ok() && first == *b"{";
        let reason = match length
            .checked_add(8)
            .filter(|_| began && length <= MAX_HEADER)
        {
            Some(needed) => cut(bytes, needed),
            None => "is neither a safetensors file nor one of torch.save".into(),
        };
        return Err(weights_error(path, reason));
    }
    let header: Header = serde_json::from_reader(BufReader::new(file.take(length)))
        .map_err(|error| weights_error(path, format!("is not a safetensors file: {error}")))?;
    let ends = header.tensors.values().map(|entry| entry.data_offsets[1]);
    let needed = ends.max().unwrap_or(0).saturating_add(length + 8);
    if needed > bytes {
        Err(weights_error(path, cut(bytes, needed)))
    } else {
        Ok(header)
    }
}

/// Bound of the crate `safetensors` on a header.
const MAX_HEADER: u64 = 100_000_000;

fn cut(bytes: u64, needed: u64) -> String {
    format!("is truncated: it has {bytes} of at least {needed} bytes; download or copy it again")
}

/// The metadata of a safetensors file; reads its header alone.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Weights`] where it is no safetensors file, or is cut.
pub fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    Ok(read_header(path)?.metadata)
}

/// Names of the tensors that [`super::read_safetensors`] gives.
pub(super) fn float_names(path: &Path) -> Result<Vec<String>> {
    let tensors = read_header(path)?.tensors.into_iter();
    Ok(tensors
        .filter(|(_, entry)| entry.is_float())
        .map(|(name, _)| name)
        .collect())
}

/// Tensors of a safetensors file that are passed over because they hold no floats (counters, masks, indices), each with
/// its type; none for a file of another format, whose reader passes over them too.
pub fn passed_over(path: &Path) -> Vec<(String, String)> {
    let tensors = read_header(path).unwrap_or_default().tensors;
    let others = tensors.into_iter().filter(|(_, entry)| !entry.is_float());
    others.map(|(name, entry)| (name, entry.dtype)).collect()
}

/// That a tensor which the model needs is there, and holds no floats; `name` may stand behind a prefix.
pub(super) fn is_no_float(path: &Path, name: &str) -> Option<String> {
    let is_it = |found: &str| {
        let before = found.strip_suffix(name);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let (name, dtype) = (passed_over(path).into_iter()).find(|(found, _)| is_it(found))?;
    Some(format!(
        "{} is {dtype}, but weights must be floats of 16, 32 or 64 bits; use a file that is not quantized",
        printable(name)
    ))
}
