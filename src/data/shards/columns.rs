//! Columns of a Parquet table, read at any place of an open file.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use serde_json::Value;

use crate::data::shards::window::Window;

/// Rows of labels and paths that are read at a time.
const ROWS: usize = 8 << 10;

/// An open file, read at any place.
pub(super) struct Whole {
    pub file: Arc<File>,
    pub length: u64,
}

impl Length for Whole {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Whole {
    type T = BufReader<Window>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let left = self.length.saturating_sub(start);
        let window = Window::new(self.file.clone(), start, left);
        Ok(BufReader::with_capacity(1 << 10, window))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // before anything is allocated: lengths are what the file says
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.length) {
            let reason = "truncated: a page ends behind the file".to_owned();
            return Err(ParquetError::EOF(reason));
        }
        let mut bytes = vec![0; length];
        let mut window = Window::new(self.file.clone(), start, length as u64);
        window.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// The values of a column in a group of rows.
pub(super) fn column_reader<T: DataType>(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
) -> ParquetResult<ColumnReaderImpl<T>> {
    let of_group = metadata.row_group(group);
    let rows = usize::try_from(of_group.num_rows()).unwrap_or(0);
    let pages = SerializedPageReader::new(whole.clone(), of_group.column(column), rows, None)?;
    let descriptor = metadata.file_metadata().schema_descr().column(column);
    Ok(get_typed_column_reader(get_column_reader(
        descriptor,
        Box::new(pages),
    )))
}

/// The names that Hugging Face's metadata have for the numbers of a column of classes.
pub(super) fn class_names(metadata: &ParquetMetaData, column: &str) -> Vec<Arc<str>> {
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|all| all.iter().find(|entry| entry.key == "huggingface"));
    let value = entry.and_then(|entry| serde_json::from_str::<Value>(entry.value.as_ref()?).ok());
    let names = value.and_then(|value| {
        let names = &value["info"]["features"][column]["names"];
        let names = names.as_array()?.iter();
        names
            .map(|name| name.as_str().map(Arc::from))
            .collect::<Option<Vec<_>>>()
    });
    names.unwrap_or_default()
}

/// A column of texts or whole numbers as texts; None where there is no value.
pub(super) fn texts(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
    rows: usize,
) -> ParquetResult<Vec<Option<String>>> {
    let descriptor = metadata.file_metadata().schema_descr().column(column);
    match descriptor.physical_type() {
        PhysicalType::INT32 => values::<Int32Type>(whole, metadata, group, column, rows, |value| {
            Ok(value.to_string())
        }),
        PhysicalType::INT64 => values::<Int64Type>(whole, metadata, group, column, rows, |value| {
            Ok(value.to_string())
        }),
        PhysicalType::BYTE_ARRAY => {
            let text = |value: &ByteArray| Ok(value.as_utf8()?.to_owned());
            values::<ByteArrayType>(whole, metadata, group, column, rows, text)
        }
        other => {
            let name = descriptor.path().string();
            Err(ParquetError::General(format!(
                "column {name} is of type {other}, not text or whole numbers"
            )))
        }
    }
}

fn values<T: DataType>(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
    rows: usize,
    text: impl Fn(&T::T) -> ParquetResult<String>,
) -> ParquetResult<Vec<Option<String>>> {
    let descriptor = metadata.file_metadata().schema_descr().column(column);
    let present = descriptor.max_def_level();
    let mut reader = column_reader::<T>(whole, metadata, group, column)?;
    let mut all = Vec::new();
    while all.len() < rows {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let most = ROWS.min(rows - all.len());
        let (read, _, _) = reader.read_records(most, Some(&mut levels), None, &mut values)?;
        if read == 0 {
            let reason = "truncated: a column has fewer rows than another".to_owned();
            return Err(ParquetError::EOF(reason));
        }
        let mut values = values.iter();
        for row in 0..read {
            let is_there = levels.get(row).is_none_or(|level| *level == present);
            let value = if is_there { values.next() } else { None };
            all.push(value.map(&text).transpose()?);
        }
    }
    Ok(all)
}
