//! Tables of embeddings.

use std::fs;
use std::path::{Path, PathBuf};

use ibot::embedding::{EmbeddingTable, FileStamp, TableFormat};
use serde_json::json;

use crate::{Folder, read_by_python};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sum of (index + 1) * bits, modulo 2^64.
fn checksum(values: &[f32]) -> u64 {
    let bits = bits(values).into_iter().map(u64::from);
    bits.zip(1..).fold(0, |sum: u64, (bits, place)| {
        sum.wrapping_add(bits.wrapping_mul(place))
    })
}

/// Four rows with everything that is dear to quoting, and floats that are dear to printing.
fn awkward_table() -> EmbeddingTable {
    let rows = [
        ("cats/1.jpg", Some("cats")),
        ("a, \"b\"\nc\r/größe.png", Some("01")),
        (" NA ", Some("a,b")),
        ("NA", None),
    ];
    let (paths, labels) = rows
        .map(|(path, label)| (path.to_string(), label.map(str::to_string)))
        .into_iter()
        .unzip();
    let features = vec![
        0.0,
        -0.0,
        1.0,
        0.1,
        1.0e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::EPSILON,
        16_777_217.0,
        1.0 / 3.0,
        -7.038_531e-26,
        8.589_973e9,
    ];
    EmbeddingTable {
        paths,
        labels,
        width: 3,
        features,
        model: Some("0f".into()),
        recipe: Some("cls of 1 block at 224 pixels".into()),
        input: Some("as the model's file says".into()),
        stamps: vec![
            Some(FileStamp(9, 1 << 60)),
            None,
            Some(FileStamp(0, 0)),
            Some(FileStamp(1, 2)),
        ],
    }
}

/// Rows enough for several row groups of Parquet (2^22 values each) and pages (1 MiB each).
fn large_table() -> EmbeddingTable {
    let (rows, width) = (5000, 1000);
    EmbeddingTable {
        paths: (0..rows).map(|row| format!("{row}.png")).collect(),
        labels: (0..rows)
            .map(|row| (row % 3 != 0).then(|| format!("class {}", row % 7)))
            .collect(),
        width,
        features: (0..rows * width)
            .map(|index| (index as f32).sin())
            .collect(),
        ..EmbeddingTable::default()
    }
}

/// A file has all of the table that its format keeps.
#[track_caller]
fn check_read_back(file: &Path, table: &EmbeddingTable) {
    let format = TableFormat::from_path(file).unwrap();
    if format == TableFormat::Parquet && table.is_empty() {
        let refused = EmbeddingTable::read(file).unwrap_err().to_string();
        assert!(refused.contains("holds no embedding"), "{refused}");
        return;
    }
    let read = EmbeddingTable::read(file).unwrap();
    assert_eq!(bits(&read.features), bits(&table.features));
    let keeps_model = [TableFormat::Safetensors, TableFormat::Parquet].contains(&format);
    let keeps_files = format == TableFormat::Safetensors;
    let expected = EmbeddingTable {
        model: table.model.clone().filter(|_| keeps_model),
        recipe: table.recipe.clone().filter(|_| keeps_model),
        input: table.input.clone().filter(|_| keeps_files),
        stamps: if keeps_files {
            table.stamps.clone()
        } else {
            vec![]
        },
        ..table.clone()
    };
    assert_eq!(read, expected, "{}", file.display());
}

#[test]
fn tables_are_read_as_they_were_written() {
    let folder = Folder::new("tables");
    let empty = EmbeddingTable {
        paths: vec![],
        labels: vec![],
        width: 3,
        features: vec![],
        ..EmbeddingTable::default()
    };
    let mut wrong = Vec::new();
    for (name, table) in [
        ("awkward", awkward_table()),
        ("empty", empty),
        ("large", large_table()),
    ] {
        let files: Vec<PathBuf> = TableFormat::KNOWN
            .iter()
            .filter(|(_, format)| name != "large" || *format != TableFormat::Csv) // slow
            .map(|(ending, _)| folder.file(&format!("{name}.{ending}")))
            .collect();
        for file in &files {
            table.write(file).unwrap();
        }
        for file in &files {
            check_read_back(file, &table);
        }
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let Some(found) = read_by_python("table", &files) else {
            continue;
        };
        assert_eq!(found.len(), files.len());
        for (file, found) in files.iter().zip(&found) {
            // text has no missing values: pandas is told to leave them as they are
            let is_text = ["npy", "csv"]
                .iter()
                .any(|ending| file.extension().unwrap() == *ending);
            let labels: Vec<Option<&str>> = table
                .labels
                .iter()
                .map(|label| label.as_deref().or(is_text.then_some("")))
                .collect();
            let expected = json!({
                "paths": table.paths,
                "labels": labels,
                "shape": [table.len(), table.width],
                "checksum": checksum(&table.features),
            });
            for key in ["paths", "labels", "shape", "checksum"] {
                if found[key] != expected[key] {
                    wrong.push(format!("{}: {key}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    folder.assert_whole_files();
}

#[test]
fn text_and_arrays_have_these_bytes() {
    let folder = Folder::new("bytes");
    let table = awkward_table();
    table.write(&folder.file("table.csv")).unwrap();
    let csv = fs::read_to_string(folder.file("table.csv")).unwrap();
    let expected = "path,label,f0,f1,f2\n\
        cats/1.jpg,cats,0.0,-0.0,1.0\n\
        \"a, \"\"b\"\"\nc\r/größe.png\",01,0.1,1e-45,1.1754944e-38\n \
        NA ,\"a,b\",3.4028235e38,-1.1920929e-7,16777216.0\n\
        NA,,0.33333334,-7.038530691851209e-26,8589974000.0\n";
    assert_eq!(csv, expected);

    table.write(&folder.file("table.NPY")).unwrap();
    let npy = fs::read(folder.file("table.NPY")).unwrap();
    let values: Vec<u8> = table
        .features
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(npy[128..], values);
    let paths = fs::read_to_string(folder.file("table.paths.csv")).unwrap();
    assert!(
        paths.starts_with("path,label\ncats/1.jpg,cats\n\"a, "),
        "{paths}"
    );
    assert_eq!(
        folder.names(),
        ["table.NPY", "table.csv", "table.paths.csv"]
    );
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = Folder::new("refused");
    let table = awkward_table();
    let mut short = awkward_table();
    short.features.pop();
    let mut unlabeled = awkward_table();
    unlabeled.labels.pop();
    let mut narrow = awkward_table();
    narrow.width = 0;
    let mut wide = awkward_table();
    wide.width = usize::MAX;
    fs::create_dir_all(folder.file("taken.csv/inside")).unwrap();
    fs::create_dir_all(folder.file("taken.npy/inside")).unwrap();
    let endings = ".npy, .csv, .parquet, .safetensors";
    let cases = [
        ("features.txt", &table, endings),
        ("features", &table, endings),
        (".npy", &table, endings),
        ("short.csv", &short, "11 values in rows of 3"),
        ("unlabeled.csv", &unlabeled, "3 labels"),
        ("narrow.csv", &narrow, "width 0"),
        ("wide.csv", &wide, "rows of"),
        ("missing/table.npy", &table, "missing/table.paths.csv"),
        ("missing/table.parquet", &table, "missing/table.parquet"),
        ("taken.csv", &table, "taken.csv"),
        ("taken.npy", &table, "taken.npy"),
    ];
    let mut wrong = Vec::new();
    for (name, table, expected) in cases {
        let message = table.write(&folder.file(name)).unwrap_err().to_string();
        if !message.contains(expected) || !message.contains(name.split('.').next().unwrap()) {
            wrong.push(format!("{name}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(folder.names(), ["taken.csv", "taken.npy"]);
}

#[test]
fn what_is_no_table_is_refused() {
    let folder = Folder::new("damaged");
    let file = folder.file("table.safetensors");
    let table = awkward_table();
    table.write(&file).unwrap();
    let good = fs::read(&file).unwrap();
    let header = String::from_utf8(good[8..good.len() - 48].to_vec()).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(header.contains(from), "{header} has no {from}");
        let header = header.replace(from, to);
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], header.as_bytes(), &good[good.len() - 48..]].concat()
    };
    let cases = [
        (
            "cut",
            good[..good.len() - 1].to_vec(),
            "not a safetensors file",
        ),
        ("nothing", vec![], "not a safetensors file"),
        (
            "other name",
            changed("\"features\"", "\"weights\""),
            "no tensor \"features\"",
        ),
        ("other dtype", changed("F32", "I32"), "I32 [4, 3], not F32"),
        ("one axis", changed("[4,3]", "[12]"), "[12], not F32"),
        (
            "more rows",
            changed("[4,3]", "[6,2]"),
            "6 rows, but there are 4 paths",
        ),
        (
            "no paths",
            changed("\"paths\"", "\"files\""),
            "no \"paths\"",
        ),
        (
            "no labels",
            changed("\"labels\"", "\"classes\""),
            "no \"labels\"",
        ),
        // the last of the paths' classes; other lists end so too
        ("fewer labels", changed("\\\",null]", "\\\"]"), "3 labels"),
        (
            "no list",
            changed("\"[\\\"cats/", "\"x[\\\"cats/"),
            "paths in its metadata: expected value",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        fs::write(&file, bytes).unwrap();
        let message = EmbeddingTable::read(&file).unwrap_err().to_string();
        if !message.contains(expected) || !message.contains("table.safetensors") {
            wrong.push(format!("{name}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::write(&file, &good).unwrap();
    assert_eq!(EmbeddingTable::read(&file).unwrap(), table);
}

#[test]
fn what_is_no_table_in_other_formats_is_refused() {
    let folder = Folder::new("damaged-others");
    let table = awkward_table();
    for ending in ["csv", "npy", "parquet"] {
        table
            .write(&folder.file(&format!("good.{ending}")))
            .unwrap();
    }
    let good = |ending: &str| fs::read(folder.file(&format!("good.{ending}"))).unwrap();
    let npy = good("npy");
    let (npy_text, integers) = (npy.clone(), {
        let mut bytes = npy.clone();
        let at = bytes.windows(3).position(|part| part == b"<f4").unwrap();
        bytes[at + 1] = b'i';
        bytes
    });
    let parquet = good("parquet");
    let cases = [
        (
            "other.csv",
            b"a,b,c\n1,2,3\n".to_vec(),
            "its columns are a, b, c",
        ),
        (
            "patches.csv",
            b"path,label,row,column,f0\n".to_vec(),
            "row, column",
        ),
        (
            "word.csv",
            b"path,label,f0\na.png,,x\n".to_vec(),
            "\"x\" among the features of \"a.png\"",
        ),
        (
            "short.csv",
            b"path,label,f0,f1\na.png,,1\n".to_vec(),
            "has 3 fields",
        ),
        (
            "cut.npy",
            npy_text[..npy.len() - 1].to_vec(),
            "values that its shape says",
        ),
        ("start.npy", npy[..20].to_vec(), "was cut short"),
        ("text.npy", b"path,label".to_vec(), "is not a NumPy array"),
        ("integers.npy", integers, "not an array of floats"),
        ("alone.npy", npy.clone(), "alone.paths.csv"),
        (
            "cut.parquet",
            parquet[..parquet.len() - 9].to_vec(),
            "cannot be read as Parquet",
        ),
        (
            "text.parquet",
            b"path,label".to_vec(),
            "cannot be read as Parquet",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases {
        fs::write(folder.file(name), bytes).unwrap();
        let message = EmbeddingTable::read(&folder.file(name))
            .unwrap_err()
            .to_string();
        if !message.contains(expected) || !message.contains(name.split('.').next().unwrap()) {
            wrong.push(format!("{name}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::write(folder.file("good.paths.csv"), "path,label\na.png,\n").unwrap();
    let message = EmbeddingTable::read(&folder.file("good.npy"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("1 paths") && message.contains("4 rows"),
        "{message}"
    );
}
