//! Written here, read in `parquet_reader`. Parquet: columns path, label and embedding, uncompressed (floats of a network hardly shrink).
//!
//! Written by the `parquet` crate without its `arrow` feature, which brings eight crates of Arrow and took four times as
//! long to build. Parquet itself has lists without a length; that the embeddings are lists of D floats each is said the
//! way Arrow says it, by its own schema in the metadata. That schema is a recorded message in which D is put.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
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

/// That of patches: a row a patch.
const PATCH_SCHEMA: &str = "message schema {
    required binary path (STRING);
    optional binary label (STRING);
    required int32 row;
    required int32 column;
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// The same as Arrow's message, with [`WIDTH_IN_TEMPLATE`] for D: tests/fixtures/arrow_schema.py.
const ARROW_SCHEMA: &[u8] = include_bytes!("arrow_schema.bin");
const ARROW_PATCH_SCHEMA: &[u8] = include_bytes!("arrow_patch_schema.bin");
const WIDTH_IN_TEMPLATE: i32 = 0x5EED_5EED;

/// Keys of the file's metadata.
const ARROW_KEY: &str = "ARROW:schema";
pub(super) const MODEL: &str = "ibot.model";
pub(super) const RECIPE: &str = "ibot.recipe";

/// Values in a row group: 16 MiB, all of which is in memory while it is written.
pub(super) const VALUES_IN_GROUP: usize = 1 << 22;

pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let mut metadata = vec![(ARROW_KEY, arrow_schema(ARROW_SCHEMA, path, table.width)?)];
    for (key, value) in [(MODEL, &table.model), (RECIPE, &table.recipe)] {
        metadata.extend(value.clone().map(|value| (key, value)));
    }
    let written = Unfinished::write(path, |file| {
        write_groups(table, metadata, file).map_err(std::io::Error::other)
    })?;
    written.finish()
}

/// Arrow's schema for width D, as it stands in Parquet's metadata.
fn arrow_schema(template: &[u8], path: &Path, width: usize) -> Result<String> {
    let mut schema = template.to_vec();
    let mark = WIDTH_IN_TEMPLATE.to_le_bytes();
    let at = schema.windows(mark.len()).position(|window| window == mark);
    let (Some(at), Ok(width)) = (at, i32::try_from(width)) else {
        let reason = format!("embeddings of width {width} are too wide for Parquet");
        return Err(Error::data(path, reason));
    };
    schema[at..at + mark.len()].copy_from_slice(&width.to_le_bytes());
    Ok(STANDARD.encode(schema))
}

fn properties(metadata: Vec<(&str, String)>) -> WriterPropertiesBuilder {
    // by parts: a path made of one text with dots in it is of no column, and says so nowhere
    let embedding = ["embedding", "list", "element"].map(str::to_owned);
    let embedding = ColumnPath::new(embedding.to_vec());
    let metadata = metadata.into_iter();
    let metadata = metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value));
    WriterProperties::builder()
        .set_created_by(concat!("ibot ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(metadata.collect()))
        // no two floats are equal, and nobody asks for the largest
        .set_column_dictionary_enabled(embedding.clone(), false)
        .set_column_statistics_enabled(embedding, EnabledStatistics::None)
}

fn write_groups(
    table: &EmbeddingTable,
    metadata: Vec<(&str, String)>,
    file: &mut BufWriter<File>,
) -> parquet::errors::Result<()> {
    let properties = properties(metadata)
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
        let paths = paths.iter().map(String::as_str);
        let labels = labels.iter().map(Option::as_deref);
        write_names(&mut group, paths, labels)?;
        write_lists(&mut group, features, table.width)?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

/// Writes the columns path and label.
pub(super) fn write_names<'a, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    paths: impl Iterator<Item = &'a str>,
    labels: impl Iterator<Item = Option<&'a str>> + Clone,
) -> parquet::errors::Result<()> {
    let paths: Vec<ByteArray> = paths.map(ByteArray::from).collect();
    write_column::<ByteArrayType, W>(group, &paths, None, None)?;
    let known: Vec<ByteArray> = labels.clone().flatten().map(ByteArray::from).collect();
    let is_known: Vec<i16> = labels.map(|label| label.is_some().into()).collect();
    write_column::<ByteArrayType, W>(group, &known, Some(&is_known), None)
}

/// Writes the column embedding.
pub(super) fn write_lists<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    features: &[f32],
    width: usize,
) -> parquet::errors::Result<()> {
    // every list has entries (definition 1), and the first of each begins a row (repetition 0)
    let definition = vec![1; features.len()];
    let repetition: Vec<i16> = (0..features.len())
        .map(|index| (index % width != 0).into())
        .collect();
    write_column::<FloatType, W>(group, features, Some(&definition), Some(&repetition))
}

/// Writes the group's next column.
pub(super) fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
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

/// Rows of patches on their way to a file: a group is written once it is full.
pub(super) struct PatchGroups {
    writer: SerializedFileWriter<BufWriter<File>>,
    width: usize,
    paths: Vec<String>,
    labels: Vec<Option<String>>,
    cells: [Vec<i32>; 2],
    features: Vec<f32>,
}

impl PatchGroups {
    pub fn create(path: &Path, file: BufWriter<File>, width: usize) -> Result<Self> {
        let arrow = arrow_schema(ARROW_PATCH_SCHEMA, path, width)?;
        let properties = properties(vec![(ARROW_KEY, arrow)]);
        let writer = parse_message_type(PATCH_SCHEMA).and_then(|schema| {
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))
        });
        let writer = writer
            .map_err(std::io::Error::other)
            .map_err(Error::io(path))?;
        Ok(Self {
            writer,
            width: width.max(1),
            paths: Vec::new(),
            labels: Vec::new(),
            cells: [Vec::new(), Vec::new()],
            features: Vec::new(),
        })
    }

    pub fn push(
        &mut self,
        path: &str,
        label: Option<&str>,
        cell: [usize; 2],
        patch: &[f32],
    ) -> std::io::Result<()> {
        self.paths.push(path.to_owned());
        self.labels.push(label.map(str::to_owned));
        for (column, at) in self.cells.iter_mut().zip(cell) {
            column.push(i32::try_from(at).map_err(std::io::Error::other)?);
        }
        self.features.extend_from_slice(patch);
        if self.features.len() + self.width > VALUES_IN_GROUP {
            self.write().map_err(std::io::Error::other)
        } else {
            Ok(())
        }
    }

    fn write(&mut self) -> parquet::errors::Result<()> {
        let mut group = self.writer.next_row_group()?;
        let paths = self.paths.iter().map(String::as_str);
        write_names(&mut group, paths, self.labels.iter().map(Option::as_deref))?;
        for column in &self.cells {
            write_column::<Int32Type, _>(&mut group, column, None, None)?;
        }
        write_lists(&mut group, &self.features, self.width)?;
        group.close()?;
        self.paths.clear();
        self.labels.clear();
        self.cells.iter_mut().for_each(Vec::clear);
        self.features.clear();
        Ok(())
    }

    /// Writes what is left; the file is yet to be synced.
    pub fn finish(mut self) -> std::io::Result<BufWriter<File>> {
        if !self.features.is_empty() {
            self.write().map_err(std::io::Error::other)?;
        }
        self.writer.into_inner().map_err(std::io::Error::other)
    }
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
        let schema = arrow_schema(ARROW_SCHEMA, Path::new(""), 384).unwrap();
        let schema = STANDARD.decode(schema).unwrap();
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
            ..EmbeddingTable::default()
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
