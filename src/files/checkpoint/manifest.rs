//! One checkpoint on disk.
//!
//! ```text
//! step-000000120/
//!   checkpoint.json      what it is: Manifest
//!   state.safetensors    every tensor
//!   B3SUMS               BLAKE3 of both, as `b3sum --check B3SUMS` reads it
//! ```
//!
//! It is written under a temporary name, synced and renamed: a crash at any byte leaves no folder with the final name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, if_there};
use crate::files::safetensors::{read_safetensors, write_tensors};
use crate::files::state_dict::NamedTensor;
use crate::unfinished::{sync_folder, write_whole};

/// Number of this layout; a reader refuses any other.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "checkpoint.json";
const STATE: &str = "state.safetensors";
const SUMS: &str = "B3SUMS";

/// Description of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Version of the program that wrote it.
    pub ibot: String,
    /// Steps made.
    pub step: usize,
    /// Epoch of the next step, from 0.
    pub epoch: usize,
    /// Batches of that epoch that are done.
    pub batch: usize,
    /// Seed of the run.
    pub seed: u64,
    /// All settings of the run, as TOML.
    pub config: String,
    /// k-NN accuracy of the teacher at this step, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn: Option<f64>,
    /// What the learning rate is multiplied by since the last rollback.
    pub learning_rate_factor: f64,
    /// Rollbacks so far.
    pub rollbacks: usize,
    /// What the loop keeps besides tensors: the health monitor of pre-training, so that its reports do not depend on
    /// interruptions, or the sums of an unfinished epoch of fine-tuning.
    #[serde(default, rename = "health")]
    pub loop_state: serde_json::Value,
}

/// A manifest with its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What it is of.
    pub manifest: Manifest,
    /// Every tensor of student, teacher, centers and optimizer, by name.
    pub tensors: BTreeMap<String, NamedTensor>,
}

impl Checkpoint {
    /// Writes the checkpoint as the folder `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the disk is full or cannot be written; nothing of the name `path` is left then.
    pub fn write(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("tmp");
        remove_folder(&temporary)?;
        let written = self
            .write_files(&temporary)
            .and_then(|()| remove_folder(path)) // a damaged one of the same step
            .and_then(|()| fs::rename(&temporary, path).map_err(Error::io(path)));
        if written.is_err() {
            // frees the space on a full disk; what cannot be removed now is removed at the next start
            let _ = fs::remove_dir_all(&temporary);
        }
        written?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    fn write_files(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let manifest = folder.join(MANIFEST);
        write_synced(&manifest, &self.manifest.to_json(&manifest)?)?;
        let state = folder.join(STATE);
        write_tensors(&state, &self.tensors)?;
        let sums: Vec<String> = [MANIFEST, STATE]
            .iter()
            .map(|name| Ok(format!("{}  {name}\n", hash(&folder.join(name))?)))
            .collect::<Result<_>>()?;
        write_synced(&folder.join(SUMS), sums.concat().as_bytes())?;
        sync_folder(folder)
    }

    /// Reads the checkpoint in the folder `path`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where a file is damaged, [`Error::OtherFormat`] where a whole one is of another format;
    /// [`Error::Io`] where one is missing or cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let sums_path = path.join(SUMS);
        let sums = fs::read_to_string(&sums_path).map_err(Error::io(&sums_path))?;
        for name in [MANIFEST, STATE] {
            let file = path.join(name);
            let found = hash(&file)?;
            let line = format!("{found}  {name}");
            if !sums.lines().any(|known| known == line) {
                return Err(Error::checkpoint(
                    &file,
                    "is damaged: its checksum differs from B3SUMS",
                ));
            }
        }
        Ok(Self {
            manifest: Manifest::read(path)?,
            tensors: read_safetensors(&path.join(STATE))?,
        })
    }
}

impl Manifest {
    fn to_json(&self, file: &Path) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io(file)(std::io::Error::other(error)))
    }

    /// Takes the place of the manifest of a checkpoint. In between its sums are of the old one and of the new one, so that
    /// a crash at any time leaves a good checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn replace(&self, path: &Path) -> Result<()> {
        let [file, sums] = [MANIFEST, SUMS].map(|name| path.join(name));
        let json = self.to_json(&file)?;
        let before = fs::read_to_string(&sums).map_err(Error::io(&sums))?;
        let line = format!("{}  {MANIFEST}\n", blake3::hash(&json));
        write_whole(&sums, (before.clone() + &line).as_bytes())?;
        write_whole(&file, &json)?;
        let others = before.lines().filter(|line| !line.ends_with(MANIFEST));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        write_whole(&sums, (line + &others).as_bytes())
    }

    /// Reads only the manifest; its checksum is not verified.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join(MANIFEST);
        let bytes = fs::read(&file).map_err(Error::io(&file))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = parse(&file, &bytes)?;
        if format.format != FORMAT {
            return Err(Error::OtherFormat {
                path: file,
                format: format.format,
                known: FORMAT,
            });
        }
        parse(&file, &bytes)
    }
}

fn parse<T: serde::de::DeserializeOwned>(file: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::checkpoint(file, format!("is damaged: {error}")))
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io(path))?;
    hasher.update_reader(file).map_err(Error::io(path))?;
    Ok(hasher.finalize())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::io(path))
}

pub(super) fn remove_folder(path: &Path) -> Result<()> {
    if_there(path, fs::remove_dir_all(path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash between the writes of another manifest leaves a good checkpoint, the old one or the new one.
    #[test]
    fn another_manifest_takes_its_place_whole() {
        let digits = crate::unfinished::unique_digits().unwrap();
        let path = std::env::temp_dir().join(format!("ibot-manifest-{digits}"));
        let manifest = Manifest {
            format: FORMAT,
            ibot: "0".into(),
            step: 7,
            epoch: 1,
            batch: 2,
            seed: 3,
            config: String::new(),
            knn: None,
            learning_rate_factor: 1.0,
            rollbacks: 0,
            loop_state: serde_json::Value::Null,
        };
        let checkpoint = Checkpoint {
            manifest: manifest.clone(),
            tensors: BTreeMap::new(),
        };
        checkpoint.write(&path).unwrap();
        let [file, sums] = [MANIFEST, SUMS].map(|name| path.join(name));
        let read = |file: &Path| fs::read(file).unwrap();
        let before = [read(&file), read(&sums)];
        let scored = Manifest {
            knn: Some(0.5),
            ..manifest
        };
        scored.replace(&path).unwrap();
        let after = [read(&file), read(&sums)];
        let found = || Checkpoint::read(&path).unwrap().manifest.knn;
        assert_eq!(found(), Some(0.5));
        assert_eq!(after[1].len(), before[1].len());
        let of_both = [&before[1][..], &after[1]].concat();
        fs::write(&sums, of_both).unwrap();
        assert_eq!(found(), Some(0.5));
        fs::write(&file, &before[0]).unwrap();
        assert_eq!(found(), None);
        fs::write(&file, b"{}").unwrap();
        assert!(Checkpoint::read(&path).is_err());
        fs::remove_dir_all(&path).unwrap();
    }
}
