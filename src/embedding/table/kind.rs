//! What a table has rows of. A file of one kind is never taken for, or replaced by, one of another.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use parquet::file::reader::{FileReader as _, SerializedFileReader};

use crate::embedding::table::format::TableFormat;
use crate::embedding::table::npy;
use crate::embedding::table::safetensors::{FEATURES, MAX_HEADER, PATCHES};
use crate::embedding::table::tiles::{TILE_FEATURES, tiles_file};
use crate::error::{Error, Result};

/// What a table of features has rows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Whole images.
    Images,
    /// The patches of images.
    Patches,
    /// Tiles of images.
    Tiles,
}

impl Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Images => "images",
            Self::Patches => "patches",
            Self::Tiles => "tiles",
        })
    }
}

impl TableKind {
    /// That of a file; none where it is no table, or is not there.
    pub fn of(path: &Path) -> Option<Self> {
        match TableFormat::from_path(path).ok()? {
            TableFormat::Npy => of_npy(path),
            TableFormat::Csv => of_csv(path),
            TableFormat::Safetensors => of_safetensors(path),
            TableFormat::Parquet => of_parquet(path),
        }
    }

    /// Refuses to write a table of this kind over a file that holds another kind or anything else, such as a model: with two names
    /// mixed up, hours of work would be lost.
    ///
    /// # Errors
    /// [`Error::Data`] where `path` is there and holds features of another kind, or none.
    pub fn refuse_others(self, path: &Path) -> Result<()> {
        match Self::of(path) {
            Some(kind) if kind == self => Ok(()),
            Some(kind) => {
                let reason = format!(
                    "exists and holds features of {kind}, which those of {self} would replace: give another name, or remove it first"
                );
                Err(Error::data(path, reason))
            }
            None if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) => {
                let reason = "exists and holds no features, so it may be a model or somebody's table: give another name, or remove it first";
                Err(Error::data(path, reason))
            }
            None => Ok(()),
        }
    }
}

/// Of a `.npy` with neighbors of both kinds, the newer one says.
fn of_npy(path: &Path) -> Option<TableKind> {
    let head = first_bytes(path, 4096);
    let written = |path: &Path| {
        let file = std::fs::metadata(path);
        file.and_then(|file| file.modified()).ok()
    };
    let (paths, tiles) = (npy::paths_file(path), tiles_file(path));
    match npy::axes(&head)? {
        4 => Some(TableKind::Patches),
        2 if written(&tiles).is_some() && written(&tiles) > written(&paths) => {
            Some(TableKind::Tiles)
        }
        2 if paths.exists() => Some(TableKind::Images),
        _ => None,
    }
}

fn of_csv(path: &Path) -> Option<TableKind> {
    let head = first_bytes(path, 64);
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&head);
    let begins = [
        ("path,label,x,y,width,height", TableKind::Tiles),
        ("path,label,row,column,", TableKind::Patches),
        ("path,label,f0", TableKind::Images),
    ];
    let begins = begins
        .iter()
        .find(|(begin, _)| head.starts_with(begin.as_bytes()));
    begins.map(|(_, kind)| *kind)
}

fn of_safetensors(path: &Path) -> Option<TableKind> {
    let length = u64::from_le_bytes(first_bytes(path, 8).try_into().ok()?);
    let head = first_bytes(path, 8 + length.min(MAX_HEADER as u64));
    let head = String::from_utf8_lossy(&head);
    // quotes within the texts of the metadata are escaped
    let has = |name: &str| head.contains(&format!("\"{name}\":{{"));
    let names = [
        (TILE_FEATURES, TableKind::Tiles),
        (PATCHES, TableKind::Patches),
        (FEATURES, TableKind::Images),
    ];
    let found = names.iter().find(|(name, _)| has(name));
    // a model may have a tensor of such a name
    found
        .filter(|_| head.contains("\"paths\":\"["))
        .map(|(_, kind)| *kind)
}

fn of_parquet(path: &Path) -> Option<TableKind> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<&str> = schema.get_fields().iter().map(|of| of.name()).collect();
    let has = |name: &str| names.contains(&name);
    if !(has("path") && has("label") && has("embedding")) {
        None
    } else if has("x") && has("width") {
        Some(TableKind::Tiles)
    } else if has("row") && has("column") {
        Some(TableKind::Patches)
    } else {
        Some(TableKind::Images)
    }
}

/// At most so many bytes of a file, none where it cannot be read.
fn first_bytes(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // what was read before an error is compared as well
    let _ = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    bytes
}
