//! Columns of a Parquet table, read at any place of an open file.

use std::io::{BufReader, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::column::page::PageReader as _;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use crate::data::storage::shards::unbroken::OfTable;
use crate::data::storage::shards::window::Window;
use crate::data::storage::stored::Stored;

/// Rows of labels and paths that are read at a time.
const ROWS: usize = 8 << 10;

/// An open file, read at any place.
pub(super) struct Whole {
    pub file: Arc<Stored>,
    pub length: u64,
}

impl Length for Whole {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Whole {
    type T = BufReader<OfTable>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let left = self.length.saturating_sub(start);
        let window = Window::new(self.file.clone(), start, left);
        Ok(BufReader::with_capacity(1 << 10, OfTable(window)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // before anything is allocated: lengths are what the file says
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.length) {
            let reason = "truncated: a page ends behind the file".to_owned();
            return Err(ParquetError::EOF(reason));
        }
        let mut bytes = vec![0; length];
        let window = Window::new(self.file.clone(), start, length as u64);
        OfTable(window).read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A file of which it is noted where each page was read.
struct Noted {
    whole: Arc<Whole>,
    last: AtomicU64,
}

impl Length for Noted {
    fn len(&self) -> u64 {
        self.whole.len()
    }
}

impl ChunkReader for Noted {
    type T = BufReader<OfTable>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        self.last.store(start, Ordering::Relaxed);
        self.whole.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.whole.get_bytes(start, length)
    }
}

/// The pages of a column in a group of rows, and the number of its rows, by the pages' headers: what the file says of itself may
/// be any number. With them, a page is read without those before it.
pub(super) fn pages(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
) -> ParquetResult<(Vec<PageLocation>, usize)> {
    let of_column = metadata.row_group(group).column(column);
    let noted = Arc::new(Noted {
        whole: whole.clone(),
        last: AtomicU64::new(0),
    });
    let mut reader = SerializedPageReader::new(noted.clone(), of_column, 0, None)?;
    let mut starts = Vec::new();
    let mut row = 0;
    while let Some(page) = reader.peek_next_page()? {
        if !page.is_dict {
            starts.push((noted.last.load(Ordering::Relaxed), row));
            // a value a row, as nothing in it is repeated
            row += page.num_rows.or(page.num_levels).unwrap_or(0);
        }
        reader.skip_next_page()?;
    }
    let (start, length) = of_column.byte_range();
    let ends = starts.iter().skip(1).map(|(start, _)| *start);
    let ends = ends.chain([start + length]);
    let found = starts.iter().zip(ends).map(|((offset, row), end)| {
        Ok(PageLocation {
            offset: i64::try_from(*offset)?,
            compressed_page_size: i32::try_from(end.saturating_sub(*offset))?,
            first_row_index: i64::try_from(*row)?,
        })
    });
    Ok((found.collect::<ParquetResult<_>>()?, row))
}

/// The values of a column in a group of rows, by its [`pages`] where they are known.
pub(super) fn column_reader<T: DataType>(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
    pages: Option<&[PageLocation]>,
) -> ParquetResult<ColumnReaderImpl<T>> {
    let of_group = metadata.row_group(group);
    let rows = usize::try_from(of_group.num_rows()).unwrap_or(0);
    let pages = pages.map(<[PageLocation]>::to_vec);
    let pages = SerializedPageReader::new(whole.clone(), of_group.column(column), rows, pages)?;
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

/// Whether [`texts`] reads a column: fractions tell no classes apart.
pub(super) fn has_texts(column: &ColumnDescriptor) -> bool {
    matches!(
        column.physical_type(),
        PhysicalType::BOOLEAN
            | PhysicalType::INT32
            | PhysicalType::INT64
            | PhysicalType::BYTE_ARRAY
    )
}

/// A column of texts, whole numbers or booleans as texts; None where there is no value.
pub(super) fn texts(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
    rows: usize,
) -> ParquetResult<Vec<Option<String>>> {
    let descriptor = metadata.file_metadata().schema_descr().column(column);
    let is_unsigned = matches!(
        descriptor.converted_type(),
        ConvertedType::UINT_32 | ConvertedType::UINT_64
    );
    match descriptor.physical_type() {
        PhysicalType::BOOLEAN => {
            let text = |value: &bool| Ok(value.to_string());
            values::<BoolType>(whole, metadata, group, column, rows, text)
        }
        PhysicalType::INT32 => values::<Int32Type>(whole, metadata, group, column, rows, |value| {
            Ok(if is_unsigned {
                value.cast_unsigned().to_string()
            } else {
                value.to_string()
            })
        }),
        PhysicalType::INT64 => values::<Int64Type>(whole, metadata, group, column, rows, |value| {
            Ok(if is_unsigned {
                value.cast_unsigned().to_string()
            } else {
                value.to_string()
            })
        }),
        PhysicalType::BYTE_ARRAY => {
            let text = |value: &ByteArray| Ok(value.as_utf8()?.to_owned());
            values::<ByteArrayType>(whole, metadata, group, column, rows, text)
        }
        other => {
            let name = descriptor.path().string();
            Err(ParquetError::General(format!(
                "column {name} is of type {other}, not text, whole numbers or booleans"
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
    let mut reader = column_reader::<T>(whole, metadata, group, column, None)?;
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
