//! What a Parquet table holds: images as Hugging Face writes them, a column `image` of `bytes` and `path`, or one column of bytes.
//!
//! An image is read by its row: its page alone is read and unpacked, about 1 MB as pyarrow writes them. Rows that are read one after
//! the other share the page.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::schema::types::ColumnDescriptor;

use crate::data::storage::shards::columns::{
    Whole, class_names, column_reader, has_texts, pages, texts,
};
use crate::data::storage::shards::members::{Member, Members, Span, plain};
use crate::data::storage::shards::unbroken::unbroken;
use crate::data::storage::stored::Stored;
use crate::error::{Error, Result};

/// Names of the column of classes.
const LABELS: [&str; 4] = ["label", "labels", "cls", "class"];

/// A table and where its images are in it.
#[derive(Debug)]
pub(super) struct Table {
    metadata: ParquetMetaData,
    /// The column of images.
    column: usize,
    /// First row of each group of rows, and the number of all.
    starts: Vec<u64>,
    /// Those of images, in each group of rows.
    pages: Vec<Vec<PageLocation>>,
    /// Bytes of each image that was read; 0 of the others.
    lengths: Vec<AtomicU64>,
}

/// Where files are, those that may be images, and the table itself.
type Contents = (HashMap<PathBuf, Span>, Members, Table);

/// The rows of the table at `path`, as files; None where it has no column of images.
///
/// # Errors
/// It cannot be read, or is no Parquet file; [`Error::Stopped`].
pub(super) fn read(
    path: &Path,
    file: Arc<Stored>,
    length: u64,
    stop: &AtomicBool,
) -> Result<Option<Contents>> {
    let whole = Arc::new(Whole { file, length });
    unbroken(path, || {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&*whole)?;
        let Some(column) = image_column(&metadata) else {
            return Ok(None);
        };
        let mut found = TableContents::new(path, &metadata);
        let (mut starts, mut pages) = (vec![0], Vec::new());
        for group in 0..metadata.num_row_groups() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (of_group, rows) = counted_pages(&whole, &metadata, group, column)?;
            pages.push(of_group);
            found.add_group(&whole, &metadata, group, rows)?;
            starts.push(starts[group] + rows as u64);
        }
        let table = Table {
            column,
            lengths: (0..found.spans.len()).map(|_| AtomicU64::new(0)).collect(),
            starts,
            pages,
            metadata: metadata.clone(),
        };
        let (spans, members) = (found.spans, found.members);
        Ok(Some((spans, members, table)))
    })
    .and_then(|found| {
        if stop.load(Ordering::Relaxed) {
            Err(Error::Stopped)
        } else {
            Ok(found)
        }
    })
}

/// Whether a table has a column of images, by its end alone.
///
/// # Errors
/// It cannot be read, or is no Parquet file.
pub(super) fn has_images(path: &Path) -> Result<bool> {
    let file = Stored::open(path).map_err(Error::io(path))?;
    let length = file.facts().map_err(Error::io(path))?.length;
    let file = Arc::new(file);
    unbroken(path, || {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&Whole { file, length })?;
        Ok(image_column(&metadata).is_some())
    })
}

/// A table of which it is known what it holds: its pages of images, and how many rows they have in all.
///
/// # Errors
/// It cannot be read, or is another one.
pub(super) fn known(
    path: &Path,
    file: Arc<Stored>,
    length: u64,
    pages: Vec<Vec<PageLocation>>,
    rows: usize,
) -> Result<Table> {
    let whole = Whole { file, length };
    unbroken(path, || {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&whole)?;
        let other = || ParquetError::General("it has other columns or rows now".to_owned());
        let column = image_column(&metadata).ok_or_else(other)?;
        let mut starts = vec![0];
        for group in metadata.row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows().max(0).cast_unsigned());
        }
        if pages.len() == metadata.num_row_groups() && starts.last() == Some(&(rows as u64)) {
            Ok(Table {
                column,
                starts,
                pages,
                lengths: (0..rows).map(|_| AtomicU64::new(0)).collect(),
                metadata,
            })
        } else {
            Err(other())
        }
    })
}

/// The column of images: `image.bytes`, `image` of bytes that are no text, another column of `bytes` and `path`, or the only column of
/// bytes that are no text.
fn image_column(metadata: &ParquetMetaData) -> Option<usize> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let is_of = |at: usize, name: &str| columns[at].path().parts().join(".") == name;
    let is_bytes = |at: usize| {
        let column = &columns[at];
        column.physical_type() == PhysicalType::BYTE_ARRAY && column.max_rep_level() == 0
    };
    let all = || (0..columns.len()).filter(|at| is_bytes(*at));
    let is_plain = |at: usize| {
        let column = &columns[at];
        column.converted_type() == ConvertedType::NONE && column.logical_type_ref().is_none()
    };
    // a text `image` is the name or address of one
    let of_image =
        all().find(|at| is_of(*at, "image.bytes") || (is_of(*at, "image") && is_plain(*at)));
    let nested = || all().find(|at| is_nested_bytes(&columns[*at]));
    let plain = || {
        let is_first_level = |at: usize| columns[at].path().parts().len() == 1;
        let mut plain = all().filter(|at| is_first_level(*at) && is_plain(*at));
        plain.next().filter(|_| plain.next().is_none())
    };
    of_image.or_else(nested).or_else(plain)
}

fn is_nested_bytes(column: &ColumnDescriptor) -> bool {
    let parts = column.path().parts();
    parts.len() == 2 && parts[1] == "bytes"
}

/// The pages of a group of rows, and how many rows they hold.
fn counted_pages(
    whole: &Arc<Whole>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
) -> ParquetResult<(Vec<PageLocation>, usize)> {
    let said = metadata.row_group(group).num_rows();
    let (pages, rows) = pages(whole, metadata, group, column)?;
    // a row takes a byte at least, or the file is not what it says
    if rows as i64 == said && rows as u64 <= whole.length {
        Ok((pages, rows))
    } else {
        Err(ParquetError::EOF(format!(
            "truncated: {rows} of {said} rows are there"
        )))
    }
}

#[derive(Default)]
struct TableContents {
    /// Column of classes, and their names where it holds numbers.
    label: Option<(usize, Vec<Arc<str>>)>,
    /// Column of the files' names.
    path: Option<usize>,
    spans: HashMap<PathBuf, Span>,
    members: Members,
    /// Every class once.
    names: HashMap<String, Arc<str>>,
}

impl TableContents {
    fn new(table: &Path, metadata: &ParquetMetaData) -> Self {
        let schema = metadata.file_metadata().schema_descr();
        let columns = schema.columns();
        let is_one = |at: &usize, name: &str| {
            let column = &columns[*at];
            column.path().string() == name && column.max_rep_level() == 0
        };
        let find = |name: &str| (0..columns.len()).find(|at| is_one(at, name));
        let mut labels = LABELS.iter().filter_map(|name| Some((find(name)?, *name)));
        let other = labels.clone().next();
        let label = labels.find(|(at, _)| has_texts(&columns[*at]));
        let other = other.filter(|_| label.is_none());
        let mut members = Members::default();
        members.skipped.extend(other.map(|(at, name)| {
            let kind = columns[at].physical_type();
            let reason = format!("its column `{name}`, of type {kind}, is no label: text, whole numbers and booleans are; write it as one of these if it says classes");
            (table.to_path_buf(), reason)
        }));
        let image = image_column(metadata).map(|at| columns[at].path().parts().to_vec());
        let path = match image.as_deref() {
            Some([outer, inner]) if inner == "bytes" => find(&format!("{outer}.path")),
            _ => find("path"),
        };
        let path = path.filter(|at| has_texts(&columns[*at]));
        Self {
            members,
            label: label.map(|(at, name)| (at, class_names(metadata, name))),
            path,
            ..Self::default()
        }
    }

    fn add_group(
        &mut self,
        whole: &Arc<Whole>,
        metadata: &ParquetMetaData,
        group: usize,
        rows: usize,
    ) -> ParquetResult<()> {
        let column = |at: usize| texts(whole, metadata, group, at, rows);
        let paths = self.path.map(column).transpose()?;
        let labels = (self.label.as_ref().map(|(at, _)| column(*at))).transpose()?;
        for row in 0..rows {
            let label = labels.as_ref().and_then(|labels| labels[row].clone());
            let class = label.and_then(|label| self.class(label));
            let path = paths.as_ref().and_then(|paths| paths[row].as_deref());
            self.add_row(path, class);
        }
        Ok(())
    }

    /// The name of a class by a text or a number; none for -1, which marks images without one.
    fn class(&mut self, label: String) -> Option<Arc<str>> {
        let names = self.label.as_ref().map(|(_, names)| &names[..]);
        let number = label.parse::<usize>().ok();
        if let Some(name) = number.and_then(|number| names?.get(number)) {
            return Some(name.clone());
        }
        if label == "-1" || label.is_empty() {
            return None;
        }
        let name: Arc<str> = label.as_str().into();
        Some(self.names.entry(label).or_insert(name).clone())
    }

    /// A row is named as its file was before: by its path, below its class where that has no folder. Rows without a name have their
    /// number, and those of one that is taken have it below that, or without a class in its place: it would read as a folder.
    fn add_row(&mut self, path: Option<&str>, class: Option<Arc<str>>) {
        let row = self.spans.len();
        let number = format!("{row:08}");
        let named = plain(Path::new(path.unwrap_or_default()));
        let folder = match (&class, named.components().count()) {
            (Some(class), 0 | 1) => plain(Path::new(class.as_ref())),
            _ => PathBuf::new(),
        };
        let named = if named.as_os_str().is_empty() {
            folder.join(&number)
        } else {
            folder.join(&named)
        };
        let is_free = |path: &PathBuf| !self.spans.contains_key(path);
        let (below, beside) = (named.join(&number), named.with_file_name(&number));
        let path = (Some(named).filter(is_free))
            .or_else(|| Some(beside).filter(|beside| class.is_none() && is_free(beside)))
            .unwrap_or(below);
        let span = Span {
            offset: row as u64,
            length: 0,
        };
        self.spans.insert(path.clone(), span);
        self.members.members.push(Member {
            path,
            class,
            known: None,
        });
    }
}

/// The images of a group of rows, read one after the other.
pub(super) struct GroupReader {
    reader: ColumnReaderImpl<ByteArrayType>,
    pub group: usize,
    /// The row of the table that comes next.
    pub next: u64,
}

impl Table {
    pub fn pages(&self) -> &[Vec<PageLocation>] {
        &self.pages
    }

    /// The bytes of a row, if it was read before.
    pub fn length(&self, row: u64) -> Option<u64> {
        let length = self.lengths.get(usize::try_from(row).ok()?)?;
        Some(length.load(Ordering::Relaxed)).filter(|length| *length > 0)
    }

    pub fn keep_length(&self, row: u64, length: u64) {
        let place = usize::try_from(row).ok();
        if let Some(known) = place.and_then(|place| self.lengths.get(place)) {
            known.store(length, Ordering::Relaxed);
        }
    }

    /// The group that has this row.
    pub fn group(&self, row: u64) -> usize {
        self.starts.partition_point(|start| *start <= row) - 1
    }

    /// The images of a group.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn reader(&self, path: &Path, file: Arc<Stored>, group: usize) -> Result<GroupReader> {
        unbroken(path, || {
            let length = file.facts()?.length;
            let whole = Arc::new(Whole { file, length });
            Ok(GroupReader {
                reader: column_reader(
                    &whole,
                    &self.metadata,
                    group,
                    self.column,
                    Some(&self.pages[group]),
                )?,
                group,
                next: self.starts[group],
            })
        })
    }
}

impl GroupReader {
    /// The bytes of a row, which is the next one or a later one.
    ///
    /// # Errors
    /// It cannot be read, or has none.
    pub fn read(&mut self, path: &Path, row: u64) -> Result<Vec<u8>> {
        let skipped = usize::try_from(row - self.next).unwrap_or(usize::MAX);
        self.next = row + 1;
        let found = unbroken(path, || {
            self.reader.skip_records(skipped)?;
            let (mut values, mut levels) = (Vec::<ByteArray>::new(), Vec::new());
            self.reader
                .read_records(1, Some(&mut levels), None, &mut values)?;
            Ok(values.first().map(|value| value.data().to_vec()))
        })?;
        found.ok_or_else(|| Error::data(path, "its row has no bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_path_get_no_folder_that_reads_as_a_class() {
        let mut found = TableContents::default();
        for path in ["x.png", "x.png", "train/x.png", "train/x.png", "x.png"] {
            found.add_row(Some(path), None);
        }
        found.add_row(Some("x.png"), Some("dog".into()));
        found.add_row(Some("x.png"), Some("dog".into()));
        let paths = found.members.members.iter().map(|member| &*member.path);
        let expected = [
            "x.png",
            "00000001",
            "train/x.png",
            "train/00000003",
            "00000004",
            "dog/x.png",
            "dog/x.png/00000006",
        ];
        assert!(paths.eq(expected.map(Path::new)));
    }
}
