//! Patches as rows of a table, one a patch.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use crate::csv_text::{field, label_field};
use crate::embedding::table::csv;
use crate::embedding::table::parquet::PatchGroups;
use crate::embedding::table::patches::shape::{PatchOwner, PatchShape};
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ListedKind {
    Csv,
    Parquet,
}

pub(super) struct Listed {
    unfinished: Unfinished,
    rows: Rows,
}

enum Rows {
    Csv(BufWriter<File>),
    Parquet(Box<PatchGroups>),
}

impl Listed {
    pub fn create(path: &Path, kind: ListedKind, shape: &PatchShape) -> Result<Self> {
        let (unfinished, mut file) = Unfinished::create(path)?;
        let rows = match kind {
            ListedKind::Csv => {
                let names = write!(file, "path,label,row,column");
                let names = names.and_then(|()| csv::write_names(&mut file, shape.width));
                names.map_err(Error::io(path))?;
                Rows::Csv(file)
            }
            ListedKind::Parquet => {
                Rows::Parquet(Box::new(PatchGroups::create(path, file, shape.width)?))
            }
        };
        Ok(Self { unfinished, rows })
    }

    pub fn push(&mut self, of: &PatchOwner, shape: &PatchShape, patches: &[f32]) -> Result<()> {
        let columns = shape.grid[1];
        let label = of.label.as_deref();
        for (at, patch) in patches.chunks_exact(shape.width).enumerate() {
            let cell = [at / columns, at % columns];
            let written = match &mut self.rows {
                Rows::Csv(file) => write_line(file, of, cell, patch),
                Rows::Parquet(groups) => groups.push(&of.path, label, cell, patch),
            };
            written.map_err(Error::io(self.unfinished.path()))?;
        }
        Ok(())
    }

    pub fn finish(self, path: &Path) -> Result<()> {
        let file = match self.rows {
            Rows::Csv(file) => file,
            Rows::Parquet(groups) => groups.finish().map_err(Error::io(path))?,
        };
        self.unfinished.sync(file)?;
        self.unfinished.finish_as(path)
    }
}

fn write_line(
    file: &mut BufWriter<File>,
    of: &PatchOwner,
    [row, column]: [usize; 2],
    patch: &[f32],
) -> std::io::Result<()> {
    let (path, label) = (field(&of.path), label_field(of.label.as_deref()));
    write!(file, "{path},{label},{row},{column}")?;
    csv::write_numbers(file, patch)
}
