//! Comma-separated text by RFC 4180, but for line ends: `\n` alone, which every reader takes and awk and git like better.
//!
//! The `csv` crate is not in the tree; to write needs one function of it.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use crate::embedding::table::rows::EmbeddingTable;
use crate::error::Result;
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

/// No label is nothing at all, an empty one is `""`.
pub(super) fn label_field(label: Option<&str>) -> Cow<'_, str> {
    label.map_or(Cow::Borrowed(""), field)
}

/// The text as a field, quoted where it must be.
pub(in crate::embedding) fn field(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.contains(['"', ',', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let cases = [
            ("cats/1.jpg", "cats/1.jpg"),
            (" a b ", " a b "),
            ("a,b", "\"a,b\""),
            ("say \"cheese\"", "\"say \"\"cheese\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("two\rlines", "\"two\rlines\""),
            ("", "\"\""),
            ("größe", "größe"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(text, expected)| field(text) != *expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(label_field(None), "");
        assert_eq!(label_field(Some("")), "\"\"");
    }
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
