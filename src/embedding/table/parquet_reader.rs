//! Parquet files of `ibot embed`, read: the columns that `parquet` writes, also as pandas, Polars and `DuckDB` write them again:
//! optional, and with floats of 64 bits.

use std::fs::File;
use std::path::Path;

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use crate::embedding::table::parquet::{MODEL, RECIPE};
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};

/// Reads what `parquet::write` wrote.
pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let file = File::open(path).map_err(Error::io(path))?;
    let damaged = |error| Error::data(path, format!("cannot be read as Parquet: {error}"));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let metadata = reader.metadata().file_metadata();
    let schema = metadata.schema_descr();
    let columns = Columns::of(schema).ok_or_else(|| Error::data(path, other_columns(schema)))?;
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
        let width = columns.read(&*group, &mut table).map_err(damaged)?;
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

/// A column of values, by its place.
#[derive(Clone, Copy)]
struct Place {
    column: usize,
    kind: PhysicalType,
    /// Definition level of a value that is there; 0 where all are.
    defined: i16,
    /// 0 where a row has one value, 1 where it has a list of them.
    nested: i16,
}

/// Where path, label and embedding are.
struct Columns {
    path: Place,
    label: Place,
    embedding: Place,
}

impl Columns {
    /// None where there are others, or they are of other types.
    fn of(schema: &SchemaDescriptor) -> Option<Self> {
        let places = (0..schema.num_columns()).map(|column| {
            let of = schema.column(column);
            let place = Place {
                column,
                kind: of.physical_type(),
                defined: of.max_def_level(),
                nested: of.max_rep_level(),
            };
            (of.path().parts().first().cloned(), place)
        });
        let places: Vec<_> = places
            // the numbers of rows, which pandas adds to a part of a table
            .filter(|(name, _)| {
                name.as_ref()
                    .is_none_or(|name| !name.starts_with("__index_level_"))
            })
            .collect();
        let find = |name: &str, nested: i16, kinds: &[PhysicalType]| {
            let mut found = places.iter();
            let (_, place) = found.find(|(own, _)| own.as_deref() == Some(name))?;
            let fits = place.nested == nested && kinds.contains(&place.kind);
            fits.then_some(*place)
        };
        let columns = Self {
            path: find("path", 0, &[PhysicalType::BYTE_ARRAY])?,
            // integers: pandas' column of nothing but nulls
            label: find("label", 0, &[PhysicalType::BYTE_ARRAY, PhysicalType::INT32])?,
            embedding: find("embedding", 1, &[PhysicalType::FLOAT, PhysicalType::DOUBLE])?,
        };
        (places.len() == 3).then_some(columns)
    }

    /// Adds the rows of a group; the values in each, 0 where their numbers differ.
    fn read(&self, group: &dyn RowGroupReader, table: &mut EmbeddingTable) -> ParquetResult<usize> {
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let (paths, ..) = column::<ByteArrayType>(group, self.path, rows)?;
        let paths = paths.iter().map(text).collect::<ParquetResult<Vec<_>>>()?;
        table.labels.extend(self.labels(group, rows)?);
        let (values, begins): (Vec<f32>, Vec<i16>) = match self.embedding.kind {
            PhysicalType::DOUBLE => {
                let (values, _, begins) = column::<DoubleType>(group, self.embedding, rows)?;
                let values = values.iter().map(|value| *value as f32);
                (values.collect(), begins)
            }
            _ => {
                let (values, _, begins) = column::<FloatType>(group, self.embedding, rows)?;
                (values, begins)
            }
        };
        let starts: Vec<usize> = (0..begins.len()).filter(|at| begins[*at] == 0).collect();
        let width = values.len() / starts.len().max(1);
        let mut places = starts.iter().enumerate();
        let is_even = places.all(|(row, at)| *at == row * width);
        // nulls and empty lists have a level, and no value
        let is_whole = paths.len() == rows && starts.len() == rows && values.len() == begins.len();
        table.paths.extend(paths);
        table.features.extend(values);
        Ok(if is_even && is_whole { width } else { 0 })
    }

    fn labels(
        &self,
        group: &dyn RowGroupReader,
        rows: usize,
    ) -> ParquetResult<Vec<Option<String>>> {
        if self.label.kind == PhysicalType::INT32 {
            let (values, ..) = column::<Int32Type>(group, self.label, rows)?;
            return if values.is_empty() {
                Ok(vec![None; rows])
            } else {
                Err(ParquetError::General("its labels are no texts".to_owned()))
            };
        }
        let (labels, levels, _) = column::<ByteArrayType>(group, self.label, rows)?;
        let mut labels = labels.iter().map(text);
        let is_known = |at: usize| levels.get(at).is_none_or(|of| *of == self.label.defined);
        (0..rows)
            .map(|at| is_known(at).then(|| labels.next()).flatten().transpose())
            .collect()
    }
}

fn other_columns(schema: &SchemaDescriptor) -> String {
    let columns = schema.columns().iter();
    let columns: Vec<String> = columns
        .map(|column| format!("{} ({})", column.path().string(), column.physical_type()))
        .collect();
    format!(
        "its columns are {}, not path and label (texts) and embedding (lists of floats) as `ibot embed` writes features of images",
        columns.join(", ")
    )
}

fn text(bytes: &ByteArray) -> ParquetResult<String> {
    Ok(bytes.as_utf8()?.to_owned())
}

/// Values, definition and repetition levels of a column.
type Column<T> = (Vec<<T as DataType>::T>, Vec<i16>, Vec<i16>);

fn column<T: DataType>(
    group: &dyn RowGroupReader,
    at: Place,
    rows: usize,
) -> ParquetResult<Column<T>> {
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at.column)?);
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    let levels = (Some(&mut definition), Some(&mut repetition));
    reader.read_records(rows, levels.0, levels.1, &mut values)?;
    Ok((values, definition, repetition))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::embedding::table::parquet::write_column;

    /// As pandas writes a table that it has read: all is optional, and a part of a table has a column of its rows' numbers.
    const OF_PANDAS: &str = "message schema {
        optional binary path (STRING);
        optional binary label (STRING);
        optional group embedding (LIST) { repeated group list { optional double element; } }
        optional double __index_level_0__;
    }";

    fn written(path: &Path, levels: &[i16], label: Option<&str>) -> Result<EmbeddingTable> {
        let nulls = OF_PANDAS.replace("binary label (STRING)", "int32 label");
        let schema = label.map_or(nulls.as_str(), |_| OF_PANDAS);
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = File::create(path).unwrap();
        let properties = Arc::new(WriterProperties::default());
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |texts: &[&str]| -> Vec<ByteArray> {
            texts.iter().map(|text| ByteArray::from(*text)).collect()
        };
        let paths = texts(&["a.png", "b.png"]);
        write_column::<ByteArrayType, _>(&mut group, &paths, Some(&[1, 1]), None).unwrap();
        match label {
            Some(label) => {
                let label = texts(&[label]);
                write_column::<ByteArrayType, _>(&mut group, &label, Some(&[0, 1]), None).unwrap();
            }
            None => write_column::<Int32Type, _>(&mut group, &[], Some(&[0, 0]), None).unwrap(),
        }
        let there = levels.iter().filter(|level| **level == 3).count();
        let values = &[0.5, -1.0, 2.0, 0.25][..there];
        let begins = Some(&[0, 1, 0, 1][..]);
        write_column::<DoubleType, _>(&mut group, values, Some(levels), begins).unwrap();
        write_column::<DoubleType, _>(&mut group, &[3.0, 4.0], Some(&[1, 1]), None).unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        read(path)
    }

    #[test]
    fn tables_of_other_programs_are_read() {
        let name = format!("ibot-pandas-{}.parquet", std::process::id());
        let path = std::env::temp_dir().join(name);
        let table = written(&path, &[3; 4], Some("x")).unwrap();
        assert_eq!(table.paths, ["a.png", "b.png"]);
        assert_eq!(table.labels, [None, Some("x".to_owned())]);
        assert_eq!(
            (table.width, table.features),
            (2, vec![0.5, -1.0, 2.0, 0.25])
        );
        let unlabeled = written(&path, &[3; 4], None).unwrap();
        assert_eq!(unlabeled.labels, [None, None]);
        // one value is missing
        let refused = written(&path, &[3, 3, 2, 3], None).unwrap_err().to_string();
        assert!(refused.contains("not all of one width"), "{refused}");
        std::fs::remove_file(path).unwrap();
    }
}
