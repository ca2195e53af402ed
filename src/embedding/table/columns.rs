//! What was found about images, as a table: path and label, and columns of numbers or text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::csv_text::{field, label_field};
use crate::error::{Error, Result};
use crate::path_text::path_text;
use crate::unfinished::{Unfinished, check_writable};

/// Values of a column, one for each image.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnValues {
    /// Whole numbers.
    Int(Vec<i32>),
    /// Numbers.
    Float(Vec<f32>),
    /// Text.
    Text(Vec<String>),
}

impl ColumnValues {
    fn len(&self) -> usize {
        match self {
            Self::Int(values) => values.len(),
            Self::Float(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "int32",
            Self::Float(_) => "float",
            Self::Text(_) => "binary",
        }
    }
}

/// A table with a row an image: the columns `path` and `label`, and others.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageColumns<'a> {
    /// Absolute paths, `[B]`.
    pub paths: &'a [PathBuf],
    /// Classes, where there are some, `[B]`.
    pub labels: &'a [Option<String>],
    /// The others, by their names, each `[B]`.
    pub columns: Vec<(&'static str, ColumnValues)>,
}

impl ImageColumns<'_> {
    /// Refuses a path that [`Self::write`] cannot write to; `setting` is what to call it.
    ///
    /// # Errors
    /// [`Error::Config`] for another ending than `.csv` and `.parquet`, [`Error::Io`].
    pub fn check_path(setting: &str, path: &Path) -> Result<()> {
        let ending = path.extension().unwrap_or_default();
        let known = ["csv", "parquet"];
        if !known.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            let remedy = "must end in .csv or .parquet";
            return Err(Error::config(setting, path.display(), remedy));
        }
        check_writable(path)
    }

    /// Writes the table as the ending of `path` says, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Data`] where columns differ in length, [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let rows = self.paths.len();
        let mut lengths = self.columns.iter().map(|(_, values)| values.len());
        if self.labels.len() != rows || lengths.any(|length| length != rows) {
            return Err(Error::data(path, "columns of different lengths"));
        }
        let ending = path.extension().unwrap_or_default();
        let written = if ending.eq_ignore_ascii_case("parquet") {
            Unfinished::write(path, |file| {
                let written = self.write_parquet(file);
                written.map_err(std::io::Error::other)
            })
        } else {
            Unfinished::write(path, |file| self.write_csv(file))
        };
        written?.finish()
    }

    fn write_csv(&self, file: &mut impl std::io::Write) -> std::io::Result<()> {
        let names = self.columns.iter().map(|(name, _)| format!(",{name}"));
        writeln!(file, "path,label{}", names.collect::<String>())?;
        for (at, (path, label)) in self.paths.iter().zip(self.labels).enumerate() {
            let path = path_text(path);
            write!(file, "{},{}", field(&path), label_field(label.as_deref()))?;
            for (_, values) in &self.columns {
                match values {
                    ColumnValues::Int(values) => write!(file, ",{}", values[at]),
                    ColumnValues::Float(values) => write!(file, ",{}", values[at]),
                    ColumnValues::Text(values) => write!(file, ",{}", field(&values[at])),
                }?;
            }
            writeln!(file)?;
        }
        Ok(())
    }

    fn write_parquet<W: std::io::Write + Send>(&self, file: W) -> parquet::errors::Result<()> {
        let mut schema =
            "message schema { required binary path (STRING); optional binary label (STRING); "
                .to_owned();
        for (name, values) in &self.columns {
            let (kind, is_text) = (values.kind(), matches!(values, ColumnValues::Text(_)));
            let text = if is_text { " (STRING)" } else { "" };
            schema += &format!("required {kind} {name}{text}; ");
        }
        let schema = Arc::new(parse_message_type(&(schema + "}"))?);
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default())?;
        let mut group = writer.next_row_group()?;
        let paths = self.paths.iter().map(|path| path_text(path));
        write_text(&mut group, paths, None)?;
        let is_known = self.labels.iter().map(|label| label.is_some().into());
        let is_known: Vec<i16> = is_known.collect();
        let labels = self.labels.iter().flatten().cloned();
        write_text(&mut group, labels, Some(&is_known))?;
        for (_, values) in &self.columns {
            match values {
                ColumnValues::Int(values) => {
                    write_values::<Int32Type, _>(&mut group, values, None)?;
                }
                ColumnValues::Float(values) => {
                    write_values::<FloatType, _>(&mut group, values, None)?;
                }
                ColumnValues::Text(values) => {
                    write_text(&mut group, values.iter().cloned(), None)?;
                }
            }
        }
        group.close()?;
        writer.close()?;
        Ok(())
    }
}

fn write_text<W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = String>,
    is_known: Option<&[i16]>,
) -> parquet::errors::Result<()> {
    let values: Vec<ByteArray> = values
        .map(|text| ByteArray::from(text.into_bytes()))
        .collect();
    write_values::<ByteArrayType, W>(group, &values, is_known)
}

fn write_values<T: DataType, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    is_known: Option<&[i16]>,
) -> parquet::errors::Result<()> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, is_known, None)?;
        column.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    use super::*;

    #[test]
    fn both_formats_hold_the_same() {
        let folder = std::env::temp_dir().join(format!("ibot-columns-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths = ["a,b.png", "c.png"].map(PathBuf::from);
        let mut table = ImageColumns {
            paths: &paths,
            labels: &[None, Some("x".to_owned())],
            columns: vec![
                ("cluster", ColumnValues::Int(vec![3, 0])),
                ("distance", ColumnValues::Float(vec![0.5, 1.0e-9])),
                (
                    "nearest",
                    ColumnValues::Text(vec!["c.png".into(), "\"".into()]),
                ),
            ],
        };
        let csv = folder.join("table.csv");
        table.write(&csv).unwrap();
        assert_eq!(
            std::fs::read_to_string(&csv).unwrap(),
            "path,label,cluster,distance,nearest\n\"a,b.png\",,3,0.5,c.png\nc.png,x,0,0.000000001,\"\"\"\"\n"
        );
        let parquet = folder.join("table.parquet");
        table.write(&parquet).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&parquet).unwrap()).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        let rows: Vec<String> = rows.map(|row| row.unwrap().to_string()).collect();
        assert_eq!(rows.len(), 2);
        for part in [
            "path: \"a,b.png\"",
            "label: null",
            "cluster: 3",
            "distance: 0.5",
        ] {
            assert!(rows[0].contains(part), "{part} is not in {}", rows[0]);
        }
        table.columns.push(("short", ColumnValues::Int(vec![1])));
        assert!(table.write(&csv).is_err());
        let refused = ImageColumns::check_path("table", &folder.join("a.txt"));
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains(".csv or .parquet")
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
