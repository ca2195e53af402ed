//! NumPy's array file: features `[B, D]`, with the paths in a neighbor.
//!
//! Format 1.0 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::embedding::table::csv;
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result, if_there};
use crate::files::write_values;
use crate::unfinished::{Unfinished, behind_links};

/// Magic, version and length of the header.
const BEFORE_HEADER: usize = 10;

/// Writes `NAME.npy` and `NAME.paths.csv`.
pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let paths = csv::write_paths(table, &paths_file(path))?;
    let features = Unfinished::write(path, |file| {
        file.write_all(&header(&[table.len(), table.width], 0))?;
        write_values(file, &table.features)
    })?;
    publish(paths, features, path)
}

/// Gives features the name `path`, and their neighbor its own. An error before the neighbor has its name leaves both files as they were.
pub(super) fn publish(neighbor: Unfinished, features: Unfinished, path: &Path) -> Result<()> {
    let path = &behind_links(path);
    let aside = publish_neighbor(neighbor, path)?;
    features.finish_as(path)?;
    if_there(&aside, fs::remove_file(&aside))?;
    Ok(())
}

/// Gives the neighbor of features its name, and tells where the features that were there are. They are set aside before: a crash between
/// the two names must leave no features that seem to be those of other images.
fn publish_neighbor(neighbor: Unfinished, path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Err(Error::data(path, "is a folder; give a file in it"));
    }
    let mut aside = path.to_path_buf().into_os_string();
    aside.push(".old.tmp");
    let aside = PathBuf::from(aside);
    let were_there = if_there(path, fs::rename(path, &aside))?.is_some();
    if let Err(error) = neighbor.finish() {
        // else those that lie aside are what a crash left, of other images
        if were_there {
            let _ = fs::rename(&aside, path);
        }
        return Err(error);
    }
    Ok(aside)
}

/// Reads what [`write()`] wrote, and what NumPy writes of it: floats `[B, D]`, and the paths beside them.
pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let refused = |reason: &str| Error::data(path, reason);
    let (dict, values) =
        parts(&bytes).ok_or_else(|| refused("is not a NumPy array, or was cut short"))?;
    let Some((size, value)) = element(dict) else {
        return Err(refused(
            "is not an array of floats of 16, 32 or 64 bits, little-endian: write it by .astype('<f4')",
        ));
    };
    let Some(&[rows, width]) = shape(dict).as_deref() else {
        let reason =
            "is not an array of features [images, width]; features of patches cannot be read here";
        return Err(refused(reason));
    };
    let count = rows.checked_mul(width);
    if count.and_then(|count| count.checked_mul(size)) != Some(values.len()) {
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
    let at = |place: usize| value(&values[place * size..][..size]);
    let is_by_column = dict.contains("'fortran_order': True");
    let features = (0..rows * width).map(|place| {
        if is_by_column {
            at(place % width * rows + place / width)
        } else {
            at(place)
        }
    });
    Ok(EmbeddingTable {
        paths,
        labels,
        width,
        features: features.collect(),
        ..EmbeddingTable::default()
    })
}

/// Bytes of an entry, and how they are read.
type Element = (usize, fn(&[u8]) -> f32);

/// That of the type in a dict; none for another than floats.
fn element(dict: &str) -> Option<Element> {
    let known: [(&str, Element); 3] = [
        (
            "'<f2'",
            (2, |bytes| of(bytes, half::f16::from_le_bytes).to_f32()),
        ),
        ("'<f4'", (4, |bytes| of(bytes, f32::from_le_bytes))),
        // what is beyond 32 bits becomes infinite, and is refused where it is used
        ("'<f8'", (8, |bytes| of(bytes, f64::from_le_bytes) as f32)),
    ];
    let found = known.iter().find(|(name, _)| dict.contains(name));
    found.map(|(_, element)| *element)
}

/// A number of N bytes.
fn of<const N: usize, T>(bytes: &[u8], number: fn([u8; N]) -> T) -> T {
    number(bytes.first_chunk().copied().unwrap_or([0; N]))
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

/// Number of axes of the array that begins with these bytes, which have its whole header.
pub(super) fn axes(head: &[u8]) -> Option<usize> {
    Some(shape(parts(head)?.0)?.len())
}

/// The numbers of the shape in a dict.
fn shape(dict: &str) -> Option<Vec<usize>> {
    let inside = dict.split_once("'shape': (")?.1.split_once(')')?.0;
    let numbers = inside.split(',').map(|number| number.trim().parse().ok());
    numbers.collect()
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

    #[test]
    fn a_crash_between_the_two_names_leaves_no_features_of_other_images() {
        let folder = std::env::temp_dir().join(format!("ibot-npy-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.npy");
        let mut table = EmbeddingTable {
            paths: vec!["a.png".to_owned()],
            labels: vec![None],
            width: 2,
            features: vec![0.5, 1.0],
            ..EmbeddingTable::default()
        };
        write(&table, &path).unwrap();
        assert_eq!(read(&path).unwrap(), table);
        table.paths = vec!["b.png".to_owned()];
        let paths = csv::write_paths(&table, &paths_file(&path)).unwrap();
        publish_neighbor(paths, &path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("x.npy"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn other_floats_and_orders_are_read() {
        let folder = std::env::temp_dir().join(format!("ibot-floats-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("x.npy");
        fs::write(paths_file(&path), "path,label\na,\nb,\n").unwrap();
        let rows = [1.0_f64, -2.0, 0.5, 3.0, 0.25, 8.0]; // [2, 3]
        let columns = [1.0_f64, 3.0, -2.0, 0.25, 0.5, 8.0];
        let write = |kind: &str, order: &str, bytes: Vec<u8>| {
            let dict =
                format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': (2, 3), }}\n");
            let length = (dict.len() as u16).to_le_bytes();
            let parts = [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), &bytes];
            fs::write(&path, parts.concat()).unwrap();
            read(&path)
        };
        let bytes = |values: [f64; 6], kind: &str| -> Vec<u8> {
            let values = values.into_iter();
            match kind {
                "<f2" => values
                    .flat_map(|value| half::f16::from_f64(value).to_le_bytes())
                    .collect(),
                "<f4" => values
                    .flat_map(|value| (value as f32).to_le_bytes())
                    .collect(),
                _ => values.flat_map(f64::to_le_bytes).collect(),
            }
        };
        for kind in ["<f2", "<f4", "<f8"] {
            for (order, values) in [("False", rows), ("True", columns)] {
                let table = write(kind, order, bytes(values, kind)).unwrap();
                assert_eq!(
                    table.features,
                    rows.map(|value| value as f32),
                    "{kind} {order}"
                );
            }
        }
        let refused = write(">f4", "False", bytes(rows, "<f4")).unwrap_err();
        assert!(refused.to_string().contains(".astype('<f4')"), "{refused}");
        fs::remove_dir_all(folder).unwrap();
    }
}
