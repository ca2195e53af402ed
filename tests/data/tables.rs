//! Parquet tables give what a folder of the same files gives, and never another image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ibot::data::{FolderConfig, ImageFolder, ImageSource};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::TempFolder;
use super::shards::{content, files, first_batches, png, scan};

/// As `datasets` of Hugging Face writes it.
const SCHEMA: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";

/// An image, its file's name and the number of its class.
pub(super) type Row = (Option<Vec<u8>>, Option<String>, Option<i64>);

/// How a table is laid out.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    compression: Compression,
    rows_per_group: usize,
    has_dictionary: bool,
}

pub(super) const PLAIN: Layout = Layout {
    compression: Compression::SNAPPY,
    rows_per_group: 100,
    has_dictionary: true,
};

pub(super) fn table(path: &Path, rows: &[Row], layout: Layout) {
    let features =
        r#"{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;
    let metadata = KeyValue::new("huggingface".to_owned(), features.to_owned());
    let properties = WriterProperties::builder()
        .set_compression(layout.compression)
        .set_dictionary_enabled(layout.has_dictionary)
        // a page an image or two
        .set_data_page_size_limit(3000)
        .set_write_batch_size(1)
        .set_key_value_metadata(Some(vec![metadata]));
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = File::create(path).unwrap();
    let properties = Arc::new(properties.build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for rows in rows.chunks(layout.rows_per_group) {
        let mut group = writer.next_row_group().unwrap();
        let bytes = rows.iter().map(|row| row.0.clone().map(ByteArray::from));
        let names = rows.iter().map(|row| row.1.as_deref().map(ByteArray::from));
        for values in [bytes.collect::<Vec<_>>(), names.collect()] {
            // 1 is an image without the value, 2 one with it
            let levels: Vec<i16> = (values.iter())
                .map(|value| 1 + i16::from(value.is_some()))
                .collect();
            let values: Vec<ByteArray> = values.into_iter().flatten().collect();
            let mut column = group.next_column().unwrap().unwrap();
            let writer = column.typed::<ByteArrayType>();
            writer.write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.2.is_some())).collect();
        let labels: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let writer = column.typed::<Int64Type>();
        writer.write_batch(&labels, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// The images of the folder of the tests, in another order.
pub(super) fn rows() -> Vec<Row> {
    let files = files().into_iter().rev();
    let images = files.filter(|(name, _)| !name.ends_with(".txt"));
    let row = |(name, bytes): (&str, Vec<u8>)| {
        let label = match name.split('/').next() {
            Some("cat") => Some(0),
            Some("dog") => Some(1),
            _ => Some(-1),
        };
        (Some(bytes), Some(name.to_owned()), label)
    };
    images.map(row).collect()
}

fn plain_folder() -> TempFolder {
    let plain = TempFolder::new();
    for (name, bytes) in files() {
        plain.write(name, bytes);
    }
    plain
}

#[test]
fn a_table_is_the_folder_in_it() {
    let (plain, packed) = (plain_folder(), TempFolder::new());
    let of_folder = scan(&[&plain.0]).unwrap();
    let expected = content(&of_folder, &plain.0);
    let path = packed.0.join("set.parquet");
    for (number, compression) in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ]
    .into_iter()
    .enumerate()
    {
        let layout = Layout {
            compression,
            rows_per_group: [100, 1, 2, 3, 4][number],
            has_dictionary: number % 2 == 0,
        };
        table(&path, &rows(), layout);
        let found = scan(&[&path]).unwrap();
        assert_eq!(found.classes(), of_folder.classes(), "{compression}");
        assert_eq!(found.fingerprint(), of_folder.fingerprint());
        assert_eq!(content(&found, &path), expected, "{compression}");
        // in any order, and again
        for at in [4, 0, 6, 1, 1, 3, 5, 2, 0] {
            let pixels = found.decode(at).map(image::ImageBuffer::into_raw);
            assert_eq!(
                pixels.unwrap_or_default(),
                expected[at].2,
                "{compression}, {at}"
            );
        }
        assert_eq!(first_batches(found), first_batches(of_folder.clone()));
    }
}

#[test]
fn a_set_of_tables_is_one_set() {
    let (plain, packed) = (plain_folder(), TempFolder::new());
    let of_folder = scan(&[&plain.0]).unwrap();
    for (number, rows) in rows().chunks(2).enumerate() {
        let name = format!("train-{number:05}-of-00004.parquet");
        table(&packed.0.join(name), rows, PLAIN);
    }
    let pattern = packed.0.join("train-{00000..00003}-of-00004.parquet");
    for source in [&pattern, &packed.0] {
        let found = scan(&[source]).unwrap();
        assert_eq!(found.fingerprint(), of_folder.fingerprint());
        assert_eq!(found.labels(), of_folder.labels());
        assert_eq!(first_batches(found), first_batches(of_folder.clone()));
    }
}

fn names(folder: &ImageFolder, root: &Path) -> Vec<(String, Option<String>)> {
    let name = |at: usize| {
        let name = folder.name(at);
        let name = name
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        (
            name,
            folder
                .label(at)
                .map(|label| folder.classes()[label].clone()),
        )
    };
    (0..folder.len()).map(name).collect()
}

#[test]
fn rows_are_named_by_file_class_and_number() {
    let folder = TempFolder::new();
    let path = folder.0.join("set.parquet");
    let row = |shade, name: Option<&str>, label| (Some(png(shade)), name.map(str::to_owned), label);
    let rows = [
        row(1, Some("a.png"), Some(1)),
        row(2, Some("a.png"), Some(1)),
        row(3, Some("a.png"), Some(0)),
        row(4, None, Some(0)),
        row(5, None, None),
        row(6, Some("../../etc/b.png"), Some(7)),
        (None, Some("nothing.png".to_owned()), Some(0)),
    ];
    table(&path, &rows, PLAIN);
    let found = scan(&[&path]).unwrap();
    let class = |name: &str| Some(name.to_owned());
    let expected = [
        ("00000004", None),
        ("cat/00000003", class("cat")),
        ("cat/a.png", class("cat")),
        ("dog/a.png", class("dog")),
        ("dog/a.png/00000001", class("dog")),
        ("etc/b.png", class("7")),
    ];
    let expected = expected.map(|(name, class)| (name.to_owned(), class));
    assert_eq!(names(&found, &path), expected);
    // each name is that of its row
    for (at, shade) in [5, 4, 3, 1, 2, 6].into_iter().enumerate() {
        assert_eq!(
            found.decode(at).unwrap().get_pixel(0, 0).0[0],
            shade,
            "{at}"
        );
    }
    let skipped = &found.summary().skipped;
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].1.contains("no bytes"), "{skipped:?}");
}

/// As many sets have it, in which each path is `image.png`.
#[test]
fn rows_of_one_path_have_no_class() {
    let folder = TempFolder::new();
    let path = folder.0.join("set.parquet");
    let row = |shade| (Some(png(shade)), Some("x.png".to_owned()), None);
    table(&path, &[row(1), row(2), row(3)], PLAIN);
    let found = scan(&[&path]).unwrap();
    let expected = ["00000001", "00000002", "x.png"].map(|name| (name.to_owned(), None));
    assert_eq!(names(&found, &path), expected);
    let shades = (0..3).map(|at| found.decode(at).unwrap().get_pixel(0, 0).0[0]);
    assert_eq!(shades.collect::<Vec<_>>(), [2, 3, 1]);
}

/// A table of three images with a column `label` of a type, and what a scan finds.
fn labeled<T: DataType>(kind: &str, labels: &[T::T; 3]) -> (TempFolder, ImageFolder) {
    two_columns::<T>("binary image", kind, labels)
}

/// A table of three images with another column.
fn two_columns<T: DataType>(
    image: &str,
    kind: &str,
    labels: &[T::T; 3],
) -> (TempFolder, ImageFolder) {
    let folder = TempFolder::new();
    let path = folder.0.join("set.parquet");
    let schema = format!("message schema {{ required {image}; required {kind}; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let images = [1, 2, 3].map(|shade| ByteArray::from(png(shade)));
    let mut column = group.next_column().unwrap().unwrap();
    let cells = column.typed::<ByteArrayType>();
    cells.write_batch(&images, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = column.typed::<T>();
    values.write_batch(labels, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let found = scan(&[&path]).unwrap();
    (folder, found)
}

#[test]
fn labels_may_be_of_many_types() {
    let (_folder, found) = labeled::<BoolType>("boolean label", &[true, false, true]);
    assert_eq!(found.classes(), ["false", "true"]);
    // in the order of their names, which begin with the class
    assert_eq!(found.labels(), [Some(0), Some(1), Some(1)]);
    // 2^64 - 1, which is not the -1 of no class
    let large = "int64 label (UINT_64)";
    let (_folder, found) = labeled::<Int64Type>(large, &[-1, 7, i64::MIN]);
    let expected = ["18446744073709551615", "7", "9223372036854775808"];
    assert_eq!(found.classes(), expected);
    // what is measured is no class, and that is said
    let (_folder, found) = labeled::<DoubleType>("double label", &[0.5, 1.0, 0.5]);
    assert_eq!((found.len(), found.classes().len()), (3, 0));
    let skipped = &found.summary().skipped;
    assert!(
        matches!(&skipped[..], [(path, reason)]
            if path.ends_with("set.parquet") && reason.contains("`label`, of type DOUBLE")),
        "{skipped:?}"
    );
}

/// It is the name or address of an image, beside the bytes of another column.
#[test]
fn a_text_called_image_is_no_image() {
    let texts = ["0.png", "1.png", "2.png"].map(ByteArray::from);
    let image = "binary image (UTF8)";
    let (_folder, found) = two_columns::<ByteArrayType>("binary jpg", image, &texts);
    let shades = (0..3).map(|at| found.decode(at).unwrap().get_pixel(0, 0).0[0]);
    assert_eq!(shades.collect::<Vec<_>>(), [1, 2, 3]);
}

fn table_of_text(folder: &TempFolder) -> PathBuf {
    let path = folder.0.join("features.parquet");
    let schema = "message schema { required binary path (UTF8); required float x; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default());
    writer.unwrap().close().unwrap();
    path
}

/// A table of text beside the images is one more file; one of images has an index of its own.
#[test]
fn a_table_without_images_does_not_prevent_an_index() {
    let (folder, place) = (plain_folder(), TempFolder::new());
    table_of_text(&folder);
    let file = place.0.join("set.ibidx");
    let made = || {
        let settings = FolderConfig::default();
        ImageFolder::scan_with_index(&folder.0, Some(&file), &settings, &AtomicBool::new(false))
    };
    let (found, work) = made().unwrap();
    assert!(work.is_written);
    assert_eq!((found.len(), found.summary().not_images), (7, 2));
    let listed = scan(&[&folder.0]).unwrap();
    assert_eq!(found.summary(), listed.summary());
    table(&folder.0.join("set.parquet"), &rows(), PLAIN);
    let refused = made().unwrap_err().to_string();
    assert!(refused.contains("tables of images"), "{refused}");
}

#[test]
fn other_tables_are_refused_or_counted() {
    let folder = plain_folder();
    let path = table_of_text(&folder);
    let error = scan(&[&path]).unwrap_err().to_string();
    assert!(
        error.contains("features.parquet") && error.contains("`image`"),
        "{error}"
    );
    let found = scan(&[&folder.0]).unwrap();
    // beside the text
    assert_eq!((found.len(), found.summary().not_images), (7, 2));
}

#[test]
fn a_damaged_table_ends_or_loses_rows() {
    let folder = TempFolder::new();
    let path = folder.0.join("set.parquet");
    table(&path, &rows(), PLAIN);
    let whole = fs::read(&path).unwrap();
    for length in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = scan(&[&path]).unwrap_err().to_string();
        assert!(
            error.contains("set.parquet") && error.contains("Parquet"),
            "{error}"
        );
    }
    // any byte may be wrong: an error, fewer images or other pixels, and no panic or hang
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        if let Ok(found) = scan(&[&path]) {
            assert!(found.len() <= rows().len());
            (0..found.len()).for_each(|at| _ = found.decode(at));
        }
    }
}

#[test]
fn a_table_that_changes_is_not_read_on() {
    let folder = TempFolder::new();
    let path = folder.0.join("set.parquet");
    table(&path, &rows(), PLAIN);
    let found = scan(&[&path]).unwrap();
    let before = found.decode(0).unwrap();
    let mut other = rows();
    other.reverse();
    other.push((Some(png(77)), None, None));
    table(&path, &other, PLAIN);
    let error = found.decode(0).unwrap_err().to_string();
    assert!(error.contains("has changed"), "{error}");
    // listed again, it is what it is now
    let found: ImageFolder = scan(&[&path]).unwrap();
    assert_eq!(found.decode(1).unwrap(), before);
    let inside: PathBuf = found.name(1);
    assert_eq!(
        ibot::data::decode::decode_rgb(&inside, 1 << 20).unwrap(),
        before
    );
}
