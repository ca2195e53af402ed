//! Parquet: columns path, label and embedding, uncompressed (floats of a network hardly shrink).
//!
//! Written by the `parquet` crate without its `arrow` feature, which brings eight crates of Arrow and took four times as
//! long to build. Parquet itself has lists without a length; that the embeddings are lists of D floats each is said the
//! way Arrow says it, by its own schema in the metadata. That schema is a recorded message in which D is put.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// `element` and `list` are names that Parquet prescribes.
const SCHEMA: &str = "message schema {
    required binary path (STRING);
    optional binary label (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// The same as Arrow's message, with [`WIDTH_IN_TEMPLATE`] for D: tests/fixtures/arrow_schema.py.
const ARROW_SCHEMA: &[u8] = include_bytes!("arrow_schema.bin");
const WIDTH_IN_TEMPLATE: i32 = 0x5EED_5EED;

/// Values in a row group: 16 MiB, all of which is in memory while it is written.
const VALUES_IN_GROUP: usize = 1 << 22;

pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let Some(arrow) = i32::try_from(table.width).ok().and_then(arrow_schema) else {
        let reason = format!(
            "embeddings of width {} are too wide for Parquet",
            table.width
        );
        return Err(Error::data(path, reason));
    };
    let written = Unfinished::write(path, |file| {
        write_groups(table, arrow, file).map_err(std::io::Error::other)
    })?;
    written.finish()
}

/// Arrow's schema for width D, as it stands in Parquet's metadata.
fn arrow_schema(width: i32) -> Option<String> {
    let mut schema = ARROW_SCHEMA.to_vec();
    let mark = WIDTH_IN_TEMPLATE.to_le_bytes();
    let at = schema
        .windows(mark.len())
        .position(|window| window == mark)?;
    schema[at..at + mark.len()].copy_from_slice(&width.to_le_bytes());
    Some(STANDARD.encode(schema))
}

fn write_groups(
    table: &EmbeddingTable,
    arrow_schema: String,
    file: &mut BufWriter<File>,
) -> parquet::errors::Result<()> {
    // by parts: a path made of one text with dots in it is of no column, and says so nowhere
    let embedding = ["embedding", "list", "element"].map(str::to_owned);
    let embedding = ColumnPath::new(embedding.to_vec());
    let properties = WriterProperties::builder()
        .set_created_by(concat!("ibot ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(
            "ARROW:schema".to_owned(),
            arrow_schema,
        )]))
        // no two floats are equal, and nobody asks for the largest
        .set_column_dictionary_enabled(embedding.clone(), false)
        .set_column_statistics_enabled(embedding, EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from("path"), false)
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let rows = (VALUES_IN_GROUP / table.width).max(1);
    let paths = table.paths.chunks(rows);
    let labels = table.labels.chunks(rows);
    let features = table.features.chunks(rows * table.width);
    for ((paths, labels), features) in paths.zip(labels).zip(features) {
        let mut group = writer.next_row_group()?;
        let paths: Vec<ByteArray> = paths.iter().map(|path| path.as_str().into()).collect();
        write_column::<ByteArrayType>(&mut group, &paths, None, None)?;
        let known: Vec<ByteArray> = labels
            .iter()
            .flatten()
            .map(|label| label.as_str().into())
            .collect();
        let is_known: Vec<i16> = labels.iter().map(|label| label.is_some().into()).collect();
        write_column::<ByteArrayType>(&mut group, &known, Some(&is_known), None)?;
        // every list has entries (definition 1), and the first of each begins a row (repetition 0)
        let definition = vec![1; features.len()];
        let repetition: Vec<i16> = (0..features.len())
            .map(|index| (index % table.width != 0).into())
            .collect();
        write_column::<FloatType>(&mut group, features, Some(&definition), Some(&repetition))?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// Writes the group's next column.
fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut BufWriter<File>>,
    values: &[T::T],
    definition: Option<&[i16]>,
    repetition: Option<&[i16]>,
) -> parquet::errors::Result<()> {
    if let Some(mut column) = group.next_column()? {
        column
            .typed::<T>()
            .write_batch(values, definition, repetition)?;
        column.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::basic::Encoding;
    use parquet::file::metadata::RowGroupMetaData;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    use super::*;

    #[test]
    fn the_width_stands_in_arrows_schema_once() {
        let mark = WIDTH_IN_TEMPLATE.to_le_bytes();
        let marks = ARROW_SCHEMA.windows(4).filter(|window| *window == mark);
        assert_eq!(marks.count(), 1);
        let schema = STANDARD.decode(arrow_schema(384).unwrap()).unwrap();
        assert_eq!(schema.len(), ARROW_SCHEMA.len());
        assert!(schema.windows(4).any(|window| window == [0x80, 1, 0, 0]));
        assert!(!schema.windows(4).any(|window| window == mark));
    }
    #[test]
    fn columns_are_stored_as_is_said_here() {
        let name = format!("ibot-parquet-{}.parquet", std::process::id());
        let path = std::env::temp_dir().join(name);
        let rows = VALUES_IN_GROUP / 1024 + 1;
        let table = EmbeddingTable {
            paths: vec!["a.png".to_owned(); rows],
            labels: vec![Some("a".to_owned()); rows],
            width: 1024,
            features: vec![0.5; rows * 1024],
            model: None,
            recipe: None,
        };
        write(&table, &path).unwrap();
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let groups = file.metadata().row_groups();
        let rows: Vec<_> = groups.iter().map(RowGroupMetaData::num_rows).collect();
        assert_eq!(rows, [4096, 1]);
        let is_dictionary = |encoding| encoding == Encoding::RLE_DICTIONARY;
        let found: Vec<_> = groups[0]
            .columns()
            .iter()
            .map(|column| {
                let dictionary = column.encodings().any(is_dictionary);
                let name = column.column_path().string();
                (name, dictionary, column.statistics().is_some())
            })
            .collect();
        let expected = [
            ("path", false, true),
            ("label", true, true),
            ("embedding.list.element", false, false),
        ];
        let expected =
            expected.map(|(name, dictionary, known)| (name.to_owned(), dictionary, known));
        assert_eq!(found, expected);
        std::fs::remove_file(path).unwrap();
    }
}
