//! Tables of patch features.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::embedding::{PatchOrigin, PatchOwner, PatchShape, PatchTable, TableFormat};
use serde_json::json;

use crate::{Folder, read_by_python};

const SHAPE: PatchShape = PatchShape {
    grid: [2, 3],
    width: 4,
};

fn owners(count: usize) -> Vec<PatchOwner> {
    let owner = |at: usize| PatchOwner {
        path: format!("größe, {at}.png"),
        label: (!at.is_multiple_of(3)).then(|| format!("class {}", at % 2)),
    };
    (0..count).map(owner).collect()
}

fn origin() -> PatchOrigin {
    PatchOrigin {
        model: "0f".to_owned(),
        recipe: "patches of 1 block at 28 pixels".to_owned(),
    }
}

fn patches(owner: usize, values: usize) -> Vec<f32> {
    (0..values)
        .map(|at| ((owner * values + at) as f32).sin())
        .collect()
}

/// Writes those images of a table that was begun for `announced`.
fn write(path: &Path, shape: &PatchShape, announced: usize, written: &[usize]) {
    let mut table = PatchTable::create(path, shape.clone(), owners(announced), origin()).unwrap();
    for owner in written {
        table
            .push(*owner, &patches(*owner, shape.values()))
            .unwrap();
    }
    assert_eq!(table.len(), written.len());
    table.finish(path).unwrap();
}

/// Sum of (index + 1) * bits, modulo 2^64.
fn checksum(values: &[f32]) -> u64 {
    let bits = values.iter().map(|value| u64::from(value.to_bits()));
    bits.zip(1..).fold(0, |sum: u64, (bits, place)| {
        sum.wrapping_add(bits.wrapping_mul(place))
    })
}

#[test]
fn patches_are_read_as_they_were_written() {
    let folder = Folder::new("patches");
    // several row groups of Parquet; and images that could not be read, so that the header has one digit less
    let large = PatchShape {
        grid: [14, 14],
        width: 384,
    };
    let all: Vec<usize> = (0..10).collect();
    let cases: [(&str, &PatchShape, &[usize]); 3] = [
        ("whole", &SHAPE, &all),
        ("partly", &SHAPE, &[0, 4, 9]),
        ("large", &large, &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ];
    for (name, shape, written) in cases {
        let written: Vec<usize> = match name {
            "large" => (1..60).collect(),
            _ => written.to_vec(),
        };
        let announced = if name == "large" { 60 } else { 10 };
        let files: Vec<PathBuf> = TableFormat::KNOWN
            .iter()
            .filter(|(_, format)| name != "large" || *format != TableFormat::Csv) // slow
            .map(|(ending, _)| folder.file(&format!("{name}.{ending}")))
            .collect();
        for file in &files {
            write(file, shape, announced, &written);
        }
        let values: Vec<f32> = written
            .iter()
            .flat_map(|at| patches(*at, shape.values()))
            .collect();
        let whole = [written.len(), shape.grid[0], shape.grid[1], shape.width];
        let file = folder.file(&format!("{name}.safetensors"));
        let tensors = ibot::files::read_safetensors(&file).unwrap();
        assert_eq!(
            (&tensors["patches"].shape[..], &tensors["patches"].values),
            (&whole[..], &values)
        );
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let Some(found) = read_by_python("patches", &files) else {
            continue;
        };
        let owners = owners(announced);
        let paths: Vec<&str> = written.iter().map(|at| owners[*at].path.as_str()).collect();
        for (file, found) in files.iter().zip(&found) {
            let is_text = ["npy", "csv"]
                .iter()
                .any(|ending| file.extension().unwrap() == *ending);
            let label = |at: &usize| owners[*at].label.as_deref().or(is_text.then_some(""));
            let labels: Vec<Option<&str>> = written.iter().map(label).collect();
            let expected = json!({
                "paths": paths, "labels": labels, "shape": whole, "checksum": checksum(&values),
            });
            assert_eq!(*found, expected, "{}", file.display());
        }
    }
    folder.assert_whole_files();
}

#[test]
fn arrays_have_these_bytes() {
    let folder = Folder::new("patch-bytes");
    write(&folder.file("two.npy"), &SHAPE, 10, &[3, 5]);
    let npy = fs::read(folder.file("two.npy")).unwrap();
    let header = String::from_utf8_lossy(&npy[10..128]);
    assert!(header.contains("'shape': (2, 2, 3, 4), }"), "{header}");
    let values = [3, 5].map(|at| patches(at, 24)).concat();
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(npy[128..], bytes);
    let paths = fs::read_to_string(folder.file("two.paths.csv")).unwrap();
    assert_eq!(
        paths,
        "path,label\n\"größe, 3.png\",\n\"größe, 5.png\",class 1\n"
    );
    write(&folder.file("two.csv"), &SHAPE, 10, &[5]);
    let csv = fs::read_to_string(folder.file("two.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], "path,label,row,column,f0,f1,f2,f3");
    assert!(
        lines[5].starts_with("\"größe, 5.png\",class 1,1,1,"),
        "{}",
        lines[5]
    );
}

#[test]
fn what_is_not_finished_or_does_not_fit_leaves_nothing() {
    let folder = Folder::new("patch-refused");
    for (ending, _) in TableFormat::KNOWN {
        let path = folder.file(&format!("table.{ending}"));
        let mut table = PatchTable::create(&path, SHAPE, owners(2), origin()).unwrap();
        for (owner, values, part) in [
            (0, vec![0.0; 23], "23 values are no patches of 2 x 3 x 4"),
            (0, vec![f32::NAN; 24], "not finite"),
            (2, vec![0.0; 24], "no image 2"),
        ] {
            let message = table.push(owner, &values).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(table.is_empty());
        drop(table);
    }
    assert!(folder.names().is_empty(), "{:?}", folder.names());
    let create =
        |name: &str| PatchTable::create(&folder.file(name), SHAPE, owners(1), origin()).err();
    assert!(
        create("table.txt")
            .unwrap()
            .to_string()
            .contains(".parquet")
    );
    assert!(
        create("no/table.csv")
            .unwrap()
            .to_string()
            .contains("no/table.csv")
    );
    // 20 000 images x 196 patches x 384 floats
    let shape = PatchShape {
        grid: [14, 14],
        width: 384,
    };
    assert_eq!(shape.bytes(20_000, TableFormat::Npy), 6_021_120_000);
    assert_eq!(shape.bytes(20_000, TableFormat::Csv), 3 * 6_021_120_000);
}
