//! Tables as comma-separated text.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::csv_text::{Field, Records, field, label_field};
use crate::embedding::table::rows::EmbeddingTable;
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// Writes `path,label,f0,f1,...`; a value has few digits, and reads back exactly.
pub(super) fn write(table: &EmbeddingTable, path: &Path) -> Result<()> {
    let written = Unfinished::write(path, |file| {
        write!(file, "path,label")?;
        write_names(file, table.width)?;
        for (path, label, features) in table.rows() {
            write!(file, "{},{}", field(path), label_field(label))?;
            write_numbers(file, features)?;
        }
        Ok(())
    })?;
    written.finish()
}

/// The end of the first line: `,f0,f1,...`.
pub(super) fn write_names(file: &mut impl Write, width: usize) -> std::io::Result<()> {
    (0..width).try_for_each(|index| write!(file, ",f{index}"))?;
    file.write_all(b"\n")
}

/// The end of any other line.
pub(super) fn write_numbers(file: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    let mut values = values.iter();
    values.try_for_each(|value| write!(file, ",{}", number(*value)))?;
    file.write_all(b"\n")
}

/// Writes `path,label`, a line a row.
pub(super) fn write_paths(table: &EmbeddingTable, path: &Path) -> Result<Unfinished> {
    Unfinished::write(path, |file| {
        writeln!(file, "path,label")?;
        let mut rows = table.rows();
        rows.try_for_each(|(path, label, _)| write_path(file, path, label))
    })
}

/// A line `path,label`.
pub(super) fn write_path(
    file: &mut impl Write,
    path: &str,
    label: Option<&str>,
) -> std::io::Result<()> {
    writeln!(file, "{},{}", field(path), label_field(label))
}

/// The value in as few digits as give it back, read as f32 and read as f64 and then rounded, as pandas does.
///
/// The fewest digits of some (7.038531e-26) lie so near the middle of two f32 that rounding twice gives the neighbor:
/// these get the digits of their f64.
fn number(value: f32) -> String {
    // `{:?}` and not `{}`: 1e-30, not thirty zeros
    let text = format!("{value:?}");
    match text.parse::<f64>() {
        Ok(read) if read as f32 != value && !value.is_nan() => format!("{:?}", f64::from(value)),
        _ => text,
    }
}

/// Reads what [`write()`] wrote, and what other programs write by RFC 4180.
pub(super) fn read(path: &Path) -> Result<EmbeddingTable> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let (names, mut records) = open(path, &text)?;
    let is_feature = |(at, name): (usize, &Field<'_>)| name.text == format!("f{at}");
    if names.len() < 3 || !names.iter().skip(2).enumerate().all(is_feature) {
        return Err(Error::data(path, other_columns(&names)));
    }
    let mut table = EmbeddingTable {
        width: names.len() - 2,
        ..EmbeddingTable::default()
    };
    while let Some(record) = records.next(names.len()) {
        let (of, label, features) = parts(record.map_err(|reason| Error::data(path, reason))?);
        for Field { text, .. } in features {
            let value = text.parse().map_err(|_| {
                let reason = format!("{text:?} among the features of {of:?} is not a number");
                Error::data(path, reason)
            })?;
            table.features.push(value);
        }
        table.paths.push(of);
        table.labels.push(label);
    }
    Ok(table)
}

/// Reads what [`write_paths`] wrote.
pub(super) fn read_paths(path: &Path) -> Result<(Vec<String>, Vec<Option<String>>)> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let (names, mut records) = open(path, &text)?;
    if names.len() != 2 {
        return Err(Error::data(path, other_columns(&names)));
    }
    let (mut paths, mut labels) = (Vec::new(), Vec::new());
    while let Some(record) = records.next(2) {
        let (of, label, _) = parts(record.map_err(|reason| Error::data(path, reason))?);
        paths.push(of);
        labels.push(label);
    }
    Ok((paths, labels))
}

/// The names of the columns, of which the first two are path and label, and the records behind them.
fn open<'a>(path: &Path, text: &'a str) -> Result<(Vec<Field<'a>>, Records<'a>)> {
    // as Excel and pandas' utf-8-sig write it
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records = Records::of(text);
    let names = records
        .fields()
        .map_err(|reason| Error::data(path, reason))?;
    let first = names.iter().take(2).map(|name| name.text.as_ref());
    if first.eq(["path", "label"]) {
        Ok((names, records))
    } else {
        Err(Error::data(path, other_columns(&names)))
    }
}

fn other_columns(names: &[Field<'_>]) -> String {
    let found: Vec<&str> = names
        .iter()
        .take(5)
        .map(|name| name.text.as_ref())
        .collect();
    format!(
        "its columns are {}, not path, label, f0, f1, ... as `ibot embed` writes features of images",
        found.join(", ")
    )
}

/// Path, label and features. No label is nothing at all, an empty one is `""`, as in [`label_field`].
fn parts(record: Vec<Field<'_>>) -> (String, Option<String>, impl Iterator<Item = Field<'_>>) {
    let mut fields = record.into_iter();
    let path = fields
        .next()
        .map_or_else(String::new, |path| path.text.into_owned());
    let label = fields
        .next()
        .filter(|label| label.is_quoted || !label.text.is_empty());
    (path, label.map(|label| label.text.into_owned()), fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_by_way_of_f64() {
        let cases = [
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1.0e-30, "1e-30"),
            (7.038_531e-26, "7.038530691851209e-26"),
            (f32::NAN, "NaN"),
            (f32::NEG_INFINITY, "-inf"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .map(|(value, expected)| (number(*value), *expected))
            .filter(|(found, expected)| found != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        // every 4093rd of the positive f32
        for bits in (0..f32::INFINITY.to_bits()).step_by(4093) {
            let value = f32::from_bits(bits);
            let text = number(value);
            assert_eq!(text.parse::<f64>().unwrap() as f32, value, "{text}");
            assert_eq!(text.parse::<f32>().unwrap(), value, "{text}");
        }
    }
}
