//! NumPy's array file: features `[B, D]`, with the paths in a neighbor.
//!
//! Format 1.0 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::embedding::table::csv;
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};
use crate::files::write_values;
use crate::unfinished::Unfinished;

/// Magic, version and length of the header.
const BEFORE_HEADER: usize = 10;

/// Writes `NAME.npy` and `NAME.paths.csv`; the paths get their name first, so that no features are without them.
pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let paths_csv = paths_file(path);
    let paths = csv::write_paths(table, &paths_csv)?;
    let features = Unfinished::write(path, |file| {
        file.write_all(&header(&[table.len(), table.width], 0))?;
        write_values(file, &table.features)
    })?;
    paths.finish()?;
    features.finish()
}

/// Reads what [`write()`] wrote: 32-bit floats `[B, D]` row by row, and the paths beside them.
pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let refused = |reason: &str| Error::data(path, reason);
    let (dict, values) =
        parts(&bytes).ok_or_else(|| refused("is not a NumPy array, or was cut short"))?;
    if !dict.contains("'<f4'") || !dict.contains("'fortran_order': False") {
        return Err(refused(
            "is not an array of 32-bit floats, row by row, as `ibot embed` writes it",
        ));
    }
    let Some([rows, width]) = shape(dict) else {
        let reason =
            "is not an array of features [images, width]; features of patches cannot be read here";
        return Err(refused(reason));
    };
    if rows
        .checked_mul(width)
        .and_then(|count| count.checked_mul(4))
        != Some(values.len())
    {
        return Err(refused("does not have the values that its shape says"));
    }
    let neighbor = paths_file(path);
    let (paths, labels) = csv::read_paths(&neighbor)?;
    if paths.len() != rows {
        let reason = format!(
            "has {} paths, but the array beside it has {rows} rows",
            paths.len()
        );
        return Err(Error::data(&neighbor, reason));
    }
    let values = values.as_chunks::<4>().0.iter();
    Ok(EmbeddingTable {
        paths,
        labels,
        width,
        features: values.map(|value| f32::from_le_bytes(*value)).collect(),
        ..EmbeddingTable::default()
    })
}

/// The dict of a file of version 1 to 3, and its values.
fn parts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (length, rest) = match rest.first()? {
        1 => (
            usize::from(u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?)),
            &rest[4..],
        ),
        _ => {
            let length = u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?);
            (usize::try_from(length).ok()?, &rest[6..])
        }
    };
    let (dict, values) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(dict).ok()?, values))
}

/// The two numbers of the shape in a dict.
fn shape(dict: &str) -> Option<[usize; 2]> {
    let inside = dict.split_once("'shape': (")?.1.split_once(')')?.0;
    let numbers = inside.split(',').map(|number| number.trim().parse().ok());
    let numbers: Option<Vec<usize>> = numbers.collect();
    numbers?.try_into().ok()
}

/// The neighbor that holds the paths.
pub(super) fn paths_file(path: &Path) -> PathBuf {
    path.with_extension("paths.csv")
}

/// All that is before the values: a Python dict, padded so that they begin at a multiple of 64 bytes, and not before `least`
/// bytes.
pub(super) fn header(shape: &[usize], least: usize) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let shape = shape.join(", ");
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let whole = (BEFORE_HEADER + dict.len() + 1).next_multiple_of(64);
    let length = whole.max(least) - BEFORE_HEADER;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes()); // four numbers of 20 digits: below 256
    header.extend(dict.as_bytes());
    header.resize(BEFORE_HEADER + length - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_bytes_numpy_writes() {
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        expected.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 384), }");
        expected.resize(127, b' ');
        expected.push(b'\n');
        assert_eq!(header(&[2, 384], 0), expected);
        let patches = header(&[9, 2, 3, 384], header(&[10, 2, 3, 384], 0).len());
        assert!(String::from_utf8_lossy(&patches).contains("(9, 2, 3, 384), "));
        for (rows, width) in [(0, 1), (1_281_167, 768), (usize::MAX, usize::MAX)] {
            let header = header(&[rows, width], 0);
            let length = usize::from(u16::from_le_bytes([header[8], header[9]]));
            assert_eq!(header.len(), BEFORE_HEADER + length);
            assert_eq!(header.len() % 64, 0);
        }
    }
}
