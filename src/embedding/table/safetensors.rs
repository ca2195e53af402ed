//! safetensors: features `[B, D]`, with paths and labels in the metadata.

use std::fs;
use std::io::Write;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use crate::embedding::stamp::FileStamp;
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};
use crate::files::{safetensors_header, write_values};
use crate::precision::Precision;
use crate::unfinished::Unfinished;

/// Name of the tensor, and of that of patches.
pub(super) const FEATURES: &str = "features";
pub(super) const PATCHES: &str = "patches";
/// Keys of the metadata; each value is a JSON list of B texts (of labels: or nulls), itself text.
const PATHS: &str = "paths";
const LABELS: &str = "labels";
/// Key of the model's hash; empty where there is none.
const MODEL: &str = "model";
/// Key of what the features are; empty where that is not known.
const RECIPE: &str = "recipe";
/// Key of how images became the model's input, and of the sizes and times of their files: a JSON list of B pairs or nulls.
const INPUT: &str = "input";
const STAMPS: &str = "files";
/// What every reader refuses, bytes: safetensors/src/tensor.rs.
pub(super) const MAX_HEADER: usize = 100_000_000;

pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let header = checked_header(table, path)?;
    let written = Unfinished::write(path, |file| write_all(file, &header, table))?;
    written.finish()
}

/// The header of a table; refused where it is more than readers take.
pub(super) fn checked_header(table: &EmbeddingTable, path: &Path) -> Result<Vec<u8>> {
    let header = header(table).map_err(Error::io(path))?;
    check_header(path, header.len(), table.len())?;
    Ok(header)
}

/// The whole file.
pub(super) fn write_all(
    file: &mut impl Write,
    header: &[u8],
    table: &EmbeddingTable,
) -> std::io::Result<()> {
    file.write_all(header)?;
    write_values(file, &table.features)
}

/// Refuses names that no header holds, before their features are computed. Sizes and times of files are not asked for, and taken to
/// be as long as those of a usual image.
pub(super) fn check_names(
    path: &Path,
    paths: Vec<String>,
    labels: Vec<Option<String>>,
) -> Result<()> {
    let stamp = FileStamp(100_000, 1_700_000_000_000_000_000);
    let table = EmbeddingTable {
        stamps: vec![Some(stamp); paths.len()],
        paths,
        labels,
        ..EmbeddingTable::default()
    };
    let header = header(&table).map_err(Error::io(path))?;
    check_header(path, header.len(), table.len())
}

/// Refuses a header of so many bytes, for so many images, that no reader takes.
pub(super) fn check_header(path: &Path, bytes: usize, images: usize) -> Result<()> {
    if bytes <= MAX_HEADER {
        return Ok(());
    }
    let reason = format!(
        "{images} paths and labels take {} MB of metadata, but safetensors holds {}; write .parquet or .npy",
        bytes / 1_000_000,
        MAX_HEADER / 1_000_000
    );
    Err(Error::data(path, reason))
}

fn header(table: &EmbeddingTable) -> std::io::Result<Vec<u8>> {
    let empty = String::new();
    let known = [&table.model, &table.recipe].map(|text| text.as_ref().unwrap_or(&empty));
    let shape = [table.len(), table.width];
    let mut more = Vec::new();
    if let Some(input) = &table.input {
        more.push((INPUT, input.clone()));
    }
    if !table.stamps.is_empty() {
        more.push((STAMPS, serde_json::to_string(&table.stamps)?));
    }
    header_of(FEATURES, &shape, &table.paths, &table.labels, known, more)
}

/// All that is before the values of the tensor `name`, whose first axis is that of the paths.
pub(super) fn header_of(
    name: &str,
    shape: &[usize],
    paths: &[impl Serialize],
    labels: &[impl Serialize],
    [model, recipe]: [&String; 2],
    more: Vec<(&str, String)>,
) -> std::io::Result<Vec<u8>> {
    let metadata = [
        ("format", "pt".to_owned()),
        (PATHS, serde_json::to_string(paths)?),
        (LABELS, serde_json::to_string(labels)?),
        (MODEL, model.clone()),
        (RECIPE, recipe.clone()),
    ];
    let metadata = metadata.into_iter().chain(more);
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    safetensors_header([(name, shape)], &metadata.collect(), Precision::F32)
}

/// The header with spaces behind its JSON, which readers skip, to `least` bytes; a multiple of 8.
pub(super) fn padded(mut header: Vec<u8>, least: usize) -> Vec<u8> {
    let length = header.len().max(least);
    header.resize(length, b' ');
    header[..8].copy_from_slice(&(length as u64 - 8).to_le_bytes());
    header
}

pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let refused = |reason: String| Error::data(path, reason);
    let damaged = |error| refused(format!("is not a safetensors file: {error}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let view = file.tensor(FEATURES).map_err(|_| {
        let reason = format!("is not a table of embeddings: it has no tensor {FEATURES:?}");
        refused(reason)
    })?;
    let (dtype, shape) = (view.dtype(), view.shape());
    let (Dtype::F32, [rows, width]) = (dtype, shape) else {
        let reason = format!("{FEATURES} is {dtype:?} {shape:?}, not F32 [images, width]");
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
            "{FEATURES} has {rows} rows, but there are {} paths",
            paths.len()
        );
        return Err(refused(reason));
    }
    let stamps = match text(STAMPS) {
        Ok(text) => serde_json::from_str(text).map_err(|error| unclear(STAMPS, error))?,
        Err(_) => Vec::new(),
    };
    let known = |key| text(key).ok().filter(|text| !text.is_empty()).cloned();
    let values = view.data().as_chunks::<4>().0.iter();
    Ok(EmbeddingTable {
        paths,
        labels,
        width: *width,
        features: values.map(|value| f32::from_le_bytes(*value)).collect(),
        model: known(MODEL),
        recipe: known(RECIPE),
        input: known(INPUT),
        stamps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_header_holds_are_refused_first() {
        let check = |count: usize| {
            let paths = vec!["p".repeat(20_000); count];
            let labels = vec![None; count];
            check_names(Path::new("all.safetensors"), paths, labels)
        };
        assert!(check(10).is_ok());
        let refused = check(5_001).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|said| said.contains("write .parquet or .npy")));
    }
}
