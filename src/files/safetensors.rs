//! safetensors files, read with care and written whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::header::{read_header, weights_error};
use crate::files::state_dict::NamedTensor;
use crate::precision::Precision;
use crate::unfinished::Unfinished;

/// All float tensors of a safetensors file, converted to f32; those of integers and booleans beside them are passed over,
/// as [`super::read_pytorch`] does.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Weights`] where it is no safetensors file, or is cut.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    read_header(path)?; // its errors name the remedy, those of the crate below do not
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| weights_error(path, format!("is not a safetensors file: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if let Some(values) = f32_values(&view) {
            let shape = view.shape().to_vec();
            tensors.insert(name.to_string(), NamedTensor { shape, values });
        }
    }
    Ok(tensors)
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

/// Writes f32 tensors to a temporary neighbor, syncs it and renames it. Equal tensors make equal bytes.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be written, [`Error::Weights`] where a tensor does not have its shape's number of
/// values.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors_with(path, tensors, &metadata, Precision::F32)
}

/// [`write_safetensors`] with metadata of one's own, and entries of another type, to which they are rounded.
///
/// # Errors
/// As [`write_safetensors`]; [`Error::Weights`] that names a tensor with an entry beyond that type.
pub fn write_safetensors_with(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    metadata: &BTreeMap<String, String>,
    dtype: Precision,
) -> Result<()> {
    check_shapes(path, tensors)?;
    check_range(path, tensors, dtype)?;
    Unfinished::write(path, |file| write_all(file, tensors, metadata, dtype))?.finish()
}

/// Writes f32 tensors under the final name and syncs the file.
///
/// # Errors
/// As [`write_safetensors`].
pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
    check_shapes(path, tensors)?;
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
        write_all(&mut file, tensors, &BTreeMap::new(), Precision::F32)?;
        file.flush()?;
        file.get_ref().sync_all()
    };
    write().map_err(Error::io(path))
}

fn check_shapes(path: &Path, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
    let is_off =
        |tensor: &NamedTensor| tensor.shape.iter().product::<usize>() != tensor.values.len();
    match tensors.iter().find(|(_, tensor)| is_off(tensor)) {
        Some((name, NamedTensor { shape, values })) => {
            let reason = format!("{name}: {} values do not fill {shape:?}", values.len());
            Err(weights_error(path, reason))
        }
        None => Ok(()),
    }
}

/// Refuses numbers that would become infinite.
fn check_range(
    path: &Path,
    tensors: &BTreeMap<String, NamedTensor>,
    dtype: Precision,
) -> Result<()> {
    let is_beyond = |x: &&f32| x.is_finite() && !dtype.nearest(**x).is_finite();
    let beyond = |(name, tensor): (&String, &NamedTensor)| {
        let value = tensor.values.iter().find(is_beyond)?;
        let remedy = "the largest number of f16 is 65504; use `dtype` bf16 or f32";
        let reason = format!("{name}: {value} does not fit {dtype}: {remedy}");
        Some(weights_error(path, reason))
    };
    tensors.iter().find_map(beyond).map_or(Ok(()), Err)
}

fn write_all(
    file: &mut impl Write,
    tensors: &BTreeMap<String, NamedTensor>,
    metadata: &BTreeMap<String, String>,
    dtype: Precision,
) -> std::io::Result<()> {
    let shapes = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
    file.write_all(&safetensors_header(shapes, metadata, dtype)?)?;
    let mut tensors = tensors.values();
    let mut write = |x: &f32| match dtype {
        Precision::F32 => file.write_all(&x.to_le_bytes()),
        Precision::F16 => file.write_all(&f16::from_f32(*x).to_le_bytes()),
        Precision::Bf16 => file.write_all(&bf16::from_f32(*x).to_le_bytes()),
    };
    tensors.try_for_each(|tensor| tensor.values.iter().try_for_each(&mut write))
}

/// What stands before the values in a safetensors file of tensors of one type, which follow in the order of `shapes`: the length of
/// its JSON, and the JSON, padded so that the values begin at a multiple of 8 bytes.
///
/// By hand: the crate `safetensors` (0.8) takes metadata as a `HashMap`, whose order differs from write to write, and its
/// `serialize_to_file` leaves a file that only its owner may read.
pub(crate) fn safetensors_header<'a>(
    shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    metadata: &BTreeMap<String, String>,
    dtype: Precision,
) -> std::io::Result<Vec<u8>> {
    let (dtype, bytes) = match dtype {
        Precision::F32 => ("F32", 4),
        Precision::F16 => ("F16", 2),
        Precision::Bf16 => ("BF16", 2),
    };
    #[derive(Serialize)]
    struct Entry<'a> {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: [usize; 2],
    }
    #[derive(Serialize)]
    struct Header<'a> {
        #[serde(rename = "__metadata__")]
        metadata: &'a BTreeMap<String, String>,
        #[serde(flatten)]
        tensors: BTreeMap<&'a str, Entry<'a>>,
    }
    let mut end = 0;
    let entry = |(name, shape): (&'a str, &'a [usize])| {
        let start = end;
        end += shape.iter().product::<usize>() * bytes;
        let entry = Entry {
            dtype,
            shape,
            data_offsets: [start, end],
        };
        (name, entry)
    };
    let tensors = shapes.into_iter().map(entry).collect();
    let mut json = serde_json::to_vec(&Header { metadata, tensors })?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

/// Values as little-endian f32.
pub(crate) fn write_values(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    values
        .iter()
        .try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::serialize;

    fn tensors() -> BTreeMap<String, NamedTensor> {
        let tensor = |shape: &[usize]| NamedTensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product::<usize>())
                .map(|at| at as f32)
                .collect(),
        };
        let tensors = [
            ("b", tensor(&[2, 3])),
            ("A", tensor(&[])),
            ("c", tensor(&[0, 4])),
        ];
        tensors
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .into()
    }

    fn written(metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_all(&mut bytes, &tensors(), metadata, Precision::F32).unwrap();
        bytes
    }

    #[test]
    fn bytes_are_those_of_the_crate() {
        let tensors = tensors();
        let bytes: Vec<Vec<u8>> = tensors
            .values()
            .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        // more than one entry would have no order there
        for format in ["", "pt", "ü\"\n"] {
            let metadata = [("format".to_owned(), format.to_owned())];
            let expected = serialize(views.clone(), Some(metadata.clone().into())).unwrap();
            assert_eq!(written(&metadata.into()), expected);
        }
    }

    #[test]
    fn equal_content_makes_equal_bytes() {
        let keys: Vec<String> = (0..20).map(|key| format!("key {key:02}")).collect();
        let entries = keys.iter().map(|key| (key.clone(), "value".to_owned()));
        let bytes = written(&entries.clone().collect());
        assert_eq!(bytes, written(&entries.rev().collect()));
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(header.is_multiple_of(8));
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> = keys.iter().map(|key| text.find(key.as_str())).collect();
        assert!(places.is_sorted() && places[0].is_some(), "{places:?}");
        assert!(SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn halves_are_read_back_as_they_were_rounded() {
        let folder = std::env::temp_dir().join(format!("ibot-halves-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("halves.safetensors");
        let values = vec![1.0 / 3.0, -7e4, 1e-6, 2049.0];
        let shape = vec![2, 2];
        let tensors = BTreeMap::from([("a".to_owned(), NamedTensor { shape, values })]);
        let write = |dtype| write_safetensors_with(&path, &tensors, &BTreeMap::new(), dtype);
        let refusal = write(Precision::F16).unwrap_err().to_string();
        assert!(refusal.contains("a: -70000 does not fit f16"), "{refusal}");
        assert!(!path.exists());
        write(Precision::Bf16).unwrap();
        let found = read_safetensors(&path).unwrap();
        let expected = tensors["a"]
            .values
            .iter()
            .map(|x| bf16::from_f32(*x).to_f32());
        assert_eq!(found["a"].values, expected.collect::<Vec<_>>());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn values_must_fit_the_shape() {
        let mut tensors = tensors();
        tensors.get_mut("b").unwrap().values.pop();
        let path = std::env::temp_dir().join("ibot-never-written.safetensors");
        let message = write_safetensors(&path, &tensors).unwrap_err().to_string();
        assert!(
            message.contains("b: 5 values do not fill [2, 3]"),
            "{message}"
        );
        assert!(!path.exists());
    }
}
