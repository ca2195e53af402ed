//! Parquet files of `ibot embed`, read: the columns that `parquet` writes, without compression.

use std::fs::File;
use std::path::Path;

use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};
use parquet::schema::parser::parse_message_type;

use crate::embedding::table::parquet::{MODEL, RECIPE, SCHEMA};
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};

/// Reads what `parquet::write` wrote.
pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let file = File::open(path).map_err(Error::io(path))?;
    let damaged = |error| Error::data(path, format!("cannot be read as Parquet: {error}"));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let metadata = reader.metadata().file_metadata();
    let expected = parse_message_type(SCHEMA).map_err(damaged)?;
    // names and types alone: the root's name is the writer's
    if metadata.schema().get_fields() != expected.get_fields() {
        let columns = metadata.schema_descr().columns().iter();
        let columns: Vec<String> = columns.map(|column| column.path().string()).collect();
        let reason = format!(
            "its columns are {}, not path, label and embedding as `ibot embed` writes features of images",
            columns.join(", ")
        );
        return Err(Error::data(path, reason));
    }
    let known = |key: &str| {
        let entries = metadata.key_value_metadata()?;
        let entry = entries.iter().find(|entry| entry.key == key)?;
        entry.value.clone()
    };
    let mut table = EmbeddingTable {
        model: known(MODEL),
        recipe: known(RECIPE),
        ..EmbeddingTable::default()
    };
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at).map_err(damaged)?;
        let width = read_group(&*group, &mut table).map_err(damaged)?;
        if table.width != 0 && table.width != width || width == 0 {
            return Err(Error::data(path, "its embeddings are not all of one width"));
        }
        table.width = width;
    }
    if table.width == 0 {
        return Err(Error::data(path, "holds no embedding"));
    }
    Ok(table)
}

/// Adds the rows of a group; the values in each, 0 where their numbers differ.
fn read_group(group: &dyn RowGroupReader, table: &mut EmbeddingTable) -> ParquetResult<usize> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let (paths, ..) = column::<ByteArrayType>(group, 0, rows)?;
    let (labels, is_known, _) = column::<ByteArrayType>(group, 1, rows)?;
    let (values, _, begins) = column::<FloatType>(group, 2, rows)?;
    let text = |bytes: &ByteArray| Ok(bytes.as_utf8()?.to_owned());
    let paths: Vec<String> = paths.iter().map(text).collect::<ParquetResult<_>>()?;
    let mut labels = labels.iter().map(text);
    for is_known in is_known {
        let label = if is_known == 0 { None } else { labels.next() };
        table.labels.push(label.transpose()?);
    }
    let starts: Vec<usize> = (0..begins.len()).filter(|at| begins[*at] == 0).collect();
    let width = values.len() / starts.len().max(1);
    let is_even = starts
        .iter()
        .enumerate()
        .all(|(row, at)| *at == row * width);
    let is_whole = paths.len() == starts.len() && values.len() == begins.len();
    table.paths.extend(paths);
    table.features.extend(values);
    Ok(if is_even && is_whole { width } else { 0 })
}

/// Values, definition and repetition levels of a column.
type Column<T> = (Vec<<T as DataType>::T>, Vec<i16>, Vec<i16>);

fn column<T: DataType>(
    group: &dyn RowGroupReader,
    at: usize,
    rows: usize,
) -> ParquetResult<Column<T>> {
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at)?);
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    let levels = (Some(&mut definition), Some(&mut repetition));
    reader.read_records(rows, levels.0, levels.1, &mut values)?;
    Ok((values, definition, repetition))
}
