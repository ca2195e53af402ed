//! Tables of images (`.csv`): a file in each record, by the columns `path` and `label`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::csv_text::{Field, Records, field};
use crate::data::folder::list_text::text_of;
use crate::error::{Error, Result, printable};
use crate::path_text::{absolute, is_remote, path_of_text, path_text};

/// A file and its class; no label is no class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRow {
    /// From the table's own folder.
    pub path: PathBuf,
    pub class: Option<Arc<str>>,
}

/// What a table names: each file once, in the order of the lines, and what is left out.
#[derive(Debug, Default)]
pub(super) struct TableRows {
    pub rows: Vec<TableRow>,
    pub skipped: Vec<String>,
}

/// The rows of a table; other columns are not looked at.
///
/// # Errors
/// It cannot be read, has no column `path`, a record that is none, or one file in two classes.
pub(super) fn rows_of(table: &Path) -> Result<TableRows> {
    let refused = |reason: String| Error::data(table, reason);
    let text = text_of(table)?;
    let mut records = Records::of(&text);
    let names = records.fields().map_err(refused)?;
    let Some(path) = column(&names, "path") else {
        let names: Vec<_> = names
            .iter()
            .map(|name| printable(name.text.as_ref()))
            .collect();
        return Err(refused(format!(
            "has no column `path`, but {}; the first line names the columns: path,label",
            names.join(", ")
        )));
    };
    let label = column(&names, "label");
    let mut found = Found {
        folder: folder_of(table)?,
        ..Found::default()
    };
    while let Some(record) = records.next(names.len()) {
        let record = record.map_err(refused)?;
        if record[path].text.is_empty() {
            let reason = format!("line {} has no path", records.line());
            found.rows.skipped.push(reason);
            continue;
        }
        let class = label.map(|label| record[label].text.trim());
        let class = class.filter(|class| !class.is_empty());
        let path = path_of_text(&record[path].text);
        let added = found.add(path, class);
        added.map_err(|reason| refused(format!("line {} {reason}", records.line())))?;
    }
    Ok(found.rows)
}

#[derive(Default)]
struct Found {
    /// What paths are relative to.
    folder: PathBuf,
    rows: TableRows,
    /// Of each file, by its whole path.
    places: HashMap<PathBuf, usize>,
}

impl Found {
    /// Adds an image of the list.
    ///
    /// # Errors
    /// It is there with another class.
    fn add(&mut self, path: PathBuf, class: Option<&str>) -> std::result::Result<(), String> {
        let whole = if is_remote(&path) {
            path.clone()
        } else {
            self.folder.join(&path)
        };
        let place = match self.places.entry(whole) {
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => {
                place.insert(self.rows.rows.len());
                let class = class.map(Arc::from);
                self.rows.rows.push(TableRow { path, class });
                return Ok(());
            }
        };
        let before = &mut self.rows.rows[place].class;
        match (before.as_deref(), class) {
            (Some(before), Some(class)) if before != class => Err(format!(
                "has {} in the class {}, and a line before has it in {}: remove one of them",
                printable(&path),
                printable(class),
                printable(before)
            )),
            (None, Some(class)) => {
                *before = Some(class.into());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The line for an image of this class, or of none, with its end; None where no line leads back to them: its name has a backslash that
/// reads as a byte, or space is at an end of the class.
pub(in crate::data) fn table_line(path: &Path, class: Option<&str>) -> Option<String> {
    let text = path_text(path);
    let class = class.unwrap_or_default();
    let leads_back = path_of_text(&text) == path && class.trim() == class;
    leads_back.then(|| match class {
        "" => format!("{},\n", field(&text)),
        class => format!("{},{}\n", field(&text), field(class)),
    })
}

/// The column of this name; capitals and space around it do not count.
fn column(names: &[Field], wanted: &str) -> Option<usize> {
    let is = |name: &Field| name.text.trim().eq_ignore_ascii_case(wanted);
    names.iter().position(is)
}

/// What paths in a table are relative to.
fn folder_of(table: &Path) -> Result<PathBuf> {
    match table.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => absolute(folder),
        _ => absolute("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_back_or_are_none() {
        let line = |path: &str, class| table_line(Path::new(path), class);
        assert_eq!(
            line("/a,b.png", Some("cat")).as_deref(),
            Some("\"/a,b.png\",cat\n")
        );
        assert_eq!(line(" a\n.png ", None).as_deref(), Some("\" a\n.png \",\n"));
        assert_eq!(
            line("a.png", Some("c\"at")).as_deref(),
            Some("a.png,\"c\"\"at\"\n")
        );
        assert_eq!(line("a.png", Some("cat ")), None);
        #[cfg(unix)]
        assert_eq!(line("a\\xe9.png", None), None);
    }
}
