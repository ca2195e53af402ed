//! Stored features without an image folder: those of images that changed or are gone are left out, and said.

use std::path::{Path, PathBuf};

use ibot::embedding::{EmbeddingTable, OnDisk, TableFormat};
use ibot::error::printable;
use ibot::path_text::path_of_text;
use ibot::{Error, Result};

use super::model::ModelArgs;
use super::output::warn;
use super::screen::warning;

/// The rows whose images are as they were when their features were computed. Features without any image on this machine are used as
/// they are, unless images are what is asked for.
///
/// # Errors
/// [`Error::Data`] where no row is left; with the remedy.
pub fn unchanged(
    model: &ModelArgs,
    file: &Path,
    table: EmbeddingTable,
    asks_for_images: bool,
) -> Result<EmbeddingTable> {
    let remedy = &made_again(file);
    let OnDisk {
        same,
        changed,
        gone,
    } = table.on_disk();
    let all = table.len();
    if same.len() == all {
        return Ok(table);
    }
    let name = printable(file);
    if gone.len() == all && !asks_for_images {
        model.note(&format!(
            "features {name}: none of its {all} images is on this machine; they are used as they are"
        ));
        return Ok(table);
    }
    if changed.len() == all && !asks_for_images {
        warn(warning(format_args!(
            "WARNING features {name}: all of its {all} images have another size or time than when they were computed, as copies may have; they are \
             used as they are; {remedy}"
        )));
        return Ok(table);
    }
    if same.is_empty() {
        let what = match (gone.len(), changed.len()) {
            (_, 0) => "are gone",
            (0, _) => "have changed since",
            _ => "have changed since or are gone",
        };
        let first = table.paths.first().map_or("", String::as_str);
        let first = printable(first);
        let reason = format!("all of its {all} images {what}, such as {first}; {remedy}");
        return Err(Error::data(file, reason));
    }
    let mut parts = Vec::new();
    if !gone.is_empty() {
        parts.push(format!(
            "{} of {all} images are gone and left out",
            gone.len()
        ));
    }
    if !changed.is_empty() {
        let changed = changed.len();
        parts.push(format!("{changed} changed since then and left out"));
    }
    let parts = parts.join(", ");
    model.note(&format!("features {name}: {parts}; {remedy}"));
    let paths = |rows: &[usize]| -> Vec<PathBuf> {
        let paths = rows.iter().map(|at| path_of_text(&table.paths[*at]));
        paths.collect()
    };
    model.left_out.stale(paths(&changed), paths(&gone));
    Ok(table.rows_at(&same))
}

/// How a file of features is made again: a model updates those that say which images changed.
pub fn made_again(file: &Path) -> String {
    let name = printable(file);
    match TableFormat::from_path(file) {
        Ok(TableFormat::Safetensors) => "give --data and --model to update it".to_owned(),
        _ => format!("make it again: `ibot embed IMAGES --model MODEL --out {name}`"),
    }
}
