//! safetensors: features `[B, D]`, with paths and labels in the metadata.
//!
//! Written by hand, read by the crate: the crate's `serialize_to_file` (0.8) would copy all features once more and leave a
//! file that only its owner may read (mode 600, of a temporary file).

use std::fs;
use std::io::Write as _;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::{EmbeddingTable, write_values};
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// Name of the tensor.
const FEATURES: &str = "features";
/// Keys of the metadata; each value is a JSON list of B texts (of labels: or nulls), itself text.
const PATHS: &str = "paths";
const LABELS: &str = "labels";
/// Key of the model's hash; empty where there is none.
const MODEL: &str = "model";
/// Key of what the features are; empty where that is not known.
const RECIPE: &str = "recipe";
/// What every reader refuses, bytes: safetensors/src/tensor.rs.
const MAX_HEADER: usize = 100_000_000;

pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let header = header(table);
    if header.len() > MAX_HEADER {
        let reason = format!(
            "{} paths and labels are {} MB of metadata, and safetensors holds {}: write .parquet or .npy",
            table.len(),
            header.len() / 1_000_000,
            MAX_HEADER / 1_000_000
        );
        return Err(Error::data(path, reason));
    }
    let written = Unfinished::write(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        write_values(file, &table.features)
    })?;
    written.finish()
}

/// The JSON before the values, padded so that they begin at a multiple of 8 bytes.
fn header(table: &EmbeddingTable) -> String {
    let header = json!({
        "__metadata__": {
            "format": "pt",
            PATHS: json!(table.paths).to_string(),
            LABELS: json!(table.labels).to_string(),
            MODEL: table.model.as_deref().unwrap_or_default(),
            RECIPE: table.recipe.as_deref().unwrap_or_default(),
        },
        FEATURES: {
            "dtype": "F32",
            "shape": [table.len(), table.width],
            "data_offsets": [0, size_of_val(table.features.as_slice())],
        },
    });
    let mut header = header.to_string();
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    header
}

pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let refused = |reason: String| Error::data(path, reason);
    let damaged = |error| refused(format!("is no safetensors file: {error}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let view = file.tensor(FEATURES).map_err(|_| {
        let reason = format!("is no table of embeddings: it has no tensor {FEATURES:?}");
        refused(reason)
    })?;
    let (dtype, shape) = (view.dtype(), view.shape());
    let (Dtype::F32, [rows, width]) = (dtype, shape) else {
        let reason = format!("{FEATURES} is {dtype:?} {shape:?}, not F32 [pictures, width]");
        return Err(refused(reason));
    };
    let text = |key: &str| {
        let text = metadata.metadata().as_ref().and_then(|all| all.get(key));
        text.ok_or_else(|| refused(format!("its metadata has no {key:?}")))
    };
    let unclear = |key: &str, error| refused(format!("{key} in its metadata: {error}"));
    let paths: Vec<String> =
        serde_json::from_str(text(PATHS)?).map_err(|error| unclear(PATHS, error))?;
    let labels = serde_json::from_str(text(LABELS)?).map_err(|error| unclear(LABELS, error))?;
    if paths.len() != *rows {
        let reason = format!(
            "{FEATURES} has {rows} rows, and there are {} paths",
            paths.len()
        );
        return Err(refused(reason));
    }
    let known = |key| text(key).ok().filter(|text| !text.is_empty()).cloned();
    let values = view.data().as_chunks::<4>().0.iter();
    Ok(EmbeddingTable {
        paths,
        labels,
        width: *width,
        features: values.map(|value| f32::from_le_bytes(*value)).collect(),
        model: known(MODEL),
        recipe: known(RECIPE),
    })
}
