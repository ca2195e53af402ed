//! `shards/{0000..0999}.tar`: a row of files in one word, as in WebDataset and in shells.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::path_text::{path_of_text, path_text};

/// Most files of a pattern: a slip of the finger is no reason to look for a billion.
const MOST: u64 = 10_000_000;

/// The files of a path with numbers in braces, whether they are there or not; None where it has none, or is the name of a file.
///
/// # Errors
/// [`Error::Data`] for a row that goes down or has no end.
pub(in crate::data) fn expanded(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let text = path_text(path);
    let Some(row) = Row::find(&text) else {
        return Ok(None);
    };
    if path.exists() {
        return Ok(None);
    }
    if row.last < row.first {
        let reason = format!("goes from {} to {}: no row of files", row.first, row.last);
        return Err(Error::data(path, reason));
    }
    // before the first is made: braces multiply
    let count = count(&text);
    if count > MOST {
        let reason = format!("stands for {count} files, of {MOST} at most: is a number too long?");
        return Err(Error::data(path, reason));
    }
    let mut all = Vec::new();
    for number in row.first..=row.last {
        let one = format!(
            "{}{number:0width$}{}",
            row.before,
            row.after,
            width = row.width
        );
        let one = path_of_text(&one);
        match expanded(&one)? {
            Some(more) => all.extend(more),
            None => all.push(one),
        }
    }
    Ok(Some(all))
}

/// How many files all rows of a pattern stand for.
fn count(mut text: &str) -> u64 {
    let mut count = 1_u64;
    while let Some(row) = Row::find(text) {
        let of_row = row.last.saturating_sub(row.first).saturating_add(1);
        count = count.saturating_mul(of_row);
        text = row.after;
    }
    count
}

/// The first braces of a text.
struct Row<'a> {
    before: &'a str,
    first: u64,
    last: u64,
    /// Digits, where numbers begin with zeros.
    width: usize,
    after: &'a str,
}

impl<'a> Row<'a> {
    fn find(text: &'a str) -> Option<Self> {
        let (before, rest) = text.split_once('{')?;
        let (inside, after) = rest.split_once('}')?;
        let (first, last) = inside.split_once("..")?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        let has_zeros = [first, last]
            .iter()
            .any(|text| text.len() > 1 && text.starts_with('0'));
        Some(Self {
            before,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            width: if has_zeros {
                first.len().max(last.len())
            } else {
                0
            },
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_rows_of_files() {
        let names = |text: &str| {
            let found = expanded(Path::new(text)).unwrap();
            found.map(|found| found.iter().map(|path| path_text(path)).collect::<Vec<_>>())
        };
        let found = names("a/{08..11}.tar").unwrap();
        assert_eq!(found, ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]);
        assert_eq!(names("{9..10}.tar").unwrap(), ["9.tar", "10.tar"]);
        let found = names("{0..1}/s-{1..2}.tar").unwrap();
        assert_eq!(found, ["0/s-1.tar", "0/s-2.tar", "1/s-1.tar", "1/s-2.tar"]);
        for none in ["a.tar", "{a..b}.tar", "{1..}.tar", "{1,2}.tar", "{1..2.tar"] {
            assert_eq!(names(none), None, "{none}");
        }
        for bad in [
            "{2..1}.tar",
            "{0..99999999999}.tar",
            "{0..9999999}{0..9}.tar",
            "{0..9999}/{0..9999}.tar",
            "{0..18446744073709551615}{0..9}.tar",
        ] {
            assert!(expanded(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
