//! NumPy's array file: features `[B, D]`, with the paths in a neighbor.
//!
//! Format 1.0 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::embedding::table::csv;
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::Result;
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
