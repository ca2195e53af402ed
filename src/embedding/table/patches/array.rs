//! Patches as one array: the header says how many images there are, so it is written again at the end.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::embedding::table::patches::shape::{PatchOrigin, PatchOwner, PatchShape};
use crate::embedding::table::{csv, npy, safetensors};
use crate::error::{Error, Result};
use crate::files::write_values;
use crate::unfinished::Unfinished;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ArrayKind {
    Npy,
    Safetensors,
}

pub(super) struct Array {
    kind: ArrayKind,
    origin: PatchOrigin,
    unfinished: Unfinished,
    file: BufWriter<File>,
    /// Bytes before the values.
    header: usize,
}

impl Array {
    pub fn create(
        path: &Path,
        kind: ArrayKind,
        shape: &PatchShape,
        owners: &[PatchOwner],
        origin: PatchOrigin,
    ) -> Result<Self> {
        // fewer images need no more room
        let owners: Vec<&PatchOwner> = owners.iter().collect();
        let header = header(kind, shape, &owners, &origin, 0).map_err(Error::io(path))?;
        if kind == ArrayKind::Safetensors {
            safetensors::check_header(path, header.len(), owners.len())?;
        }
        let (unfinished, mut file) = Unfinished::create(path)?;
        file.write_all(&header).map_err(Error::io(path))?;
        Ok(Self {
            kind,
            origin,
            unfinished,
            file,
            header: header.len(),
        })
    }

    pub fn push(&mut self, patches: &[f32]) -> Result<()> {
        let written = write_values(&mut self.file, patches);
        written.map_err(Error::io(self.unfinished.path()))
    }

    pub fn finish(mut self, path: &Path, shape: &PatchShape, owners: &[&PatchOwner]) -> Result<()> {
        let header = header(self.kind, shape, owners, &self.origin, self.header);
        let written = header.and_then(|header| {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header)
        });
        written.map_err(Error::io(path))?;
        self.unfinished.sync(self.file)?;
        if self.kind == ArrayKind::Npy {
            let beside = npy::paths_file(path);
            let paths = Unfinished::write(&beside, |file| {
                writeln!(file, "path,label")?;
                let mut owners = owners.iter();
                owners.try_for_each(|of| csv::write_path(file, &of.path, of.label.as_deref()))
            })?;
            return npy::publish(paths, self.unfinished, path);
        }
        self.unfinished.finish_as(path)
    }
}

/// All that is before the values, of at least `least` bytes.
fn header(
    kind: ArrayKind,
    shape: &PatchShape,
    owners: &[&PatchOwner],
    origin: &PatchOrigin,
    least: usize,
) -> std::io::Result<Vec<u8>> {
    let shape = [owners.len(), shape.grid[0], shape.grid[1], shape.width];
    match kind {
        ArrayKind::Npy => Ok(npy::header(&shape, least)),
        ArrayKind::Safetensors => {
            let paths: Vec<&str> = owners.iter().map(|of| of.path.as_str()).collect();
            let labels: Vec<Option<&str>> = owners.iter().map(|of| of.label.as_deref()).collect();
            let known = [&origin.model, &origin.recipe];
            let header = safetensors::header_of(
                safetensors::PATCHES,
                &shape,
                &paths,
                &labels,
                known,
                Vec::new(),
            )?;
            Ok(safetensors::padded(header, least))
        }
    }
}
