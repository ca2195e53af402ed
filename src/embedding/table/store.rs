//! A file of features that several commands may add to at the same time.

use std::collections::HashSet;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::embedding::stamp::FileStamp;
use crate::embedding::table::rows::EmbeddingTable;
use crate::embedding::table::safetensors;
use crate::error::{Error, Result};
use crate::unfinished::Unfinished;

/// How long another process may take to write the same file.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `.safetensors` file of features, which need not exist yet, and what was in it when it was read.
#[derive(Debug)]
pub struct FeatureStore {
    path: PathBuf,
    /// Size and time of the file that was read; none where there was none.
    read: Option<FileStamp>,
    table: EmbeddingTable,
}

impl FeatureStore {
    /// Reads the file by `read`, if it is there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn open(path: &Path, read: impl FnOnce(&Path) -> Result<EmbeddingTable>) -> Result<Self> {
        let stamp = FileStamp::of(path); // before it is read: what is written meanwhile is seen then
        let is_there = path.exists();
        Ok(Self {
            path: path.to_path_buf(),
            read: stamp,
            table: if is_there {
                read(path)?
            } else {
                EmbeddingTable::default()
            },
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it, as far as this process knows; empty where it does not exist yet.
    pub fn table(&self) -> &EmbeddingTable {
        &self.table
    }

    /// Writes `table` in place of what was read. Rows that other processes have written since the file was read stay, unless `table` has a
    /// new row of the same image. After an error, [`Self::table`] has the rows all the same.
    ///
    /// # Errors
    /// [`Error::Data`] where others have written features of another model or kind to it, or write for longer than a minute, or the
    /// format cannot hold so many names; [`Error::Io`].
    pub fn write(&mut self, table: EmbeddingTable) -> Result<()> {
        let before = std::mem::replace(&mut self.table, table);
        self.table.check(&self.path)?;
        let (unfinished, mut file) = after_others(&self.path)?;
        if let Some(news) = self.news(&before)? {
            self.table = self.table.updated(news);
        }
        let header = safetensors::checked_header(&self.table, &self.path)?;
        safetensors::write_all(&mut file, &header, &self.table)
            .and_then(|()| file.flush())
            .map_err(Error::io(&self.path))?;
        // of this file, and not of one that another process gives its name just after
        let written = file.get_ref().metadata().ok();
        unfinished.sync(file)?;
        unfinished.finish()?;
        self.read = written.and_then(|written| FileStamp::of_metadata(&written));
        Ok(())
    }

    /// The rows that others have written since the file was read, which had those of `before`; none where nobody wrote.
    fn news(&self, before: &EmbeddingTable) -> Result<Option<EmbeddingTable>> {
        let now = FileStamp::of(&self.path);
        if now == self.read || now.is_none() {
            return Ok(None);
        }
        let others = EmbeddingTable::read(&self.path)?;
        if !others.is_like(&self.table) {
            let reason = "another process has meanwhile written features of another model or kind to it; choose another file";
            return Err(Error::data(&self.path, reason));
        }
        // what was read of another model is no row of this table
        let known = if before.is_like(&self.table) {
            versions(before).collect()
        } else {
            HashSet::new()
        };
        let made = versions(&self.table).filter(|version| !known.contains(version));
        let made: HashSet<&str> = made.map(|(path, _)| path).collect();
        let news = versions(&others).enumerate();
        let news =
            news.filter(|(_, version)| !known.contains(version) && !made.contains(version.0));
        let news: Vec<usize> = news.map(|(at, _)| at).collect();
        Ok(Some(others.rows_at(&news)))
    }
}

/// Path, size and time of the image of each row.
fn versions(table: &EmbeddingTable) -> impl Iterator<Item = (&str, Option<FileStamp>)> {
    (0..table.len()).map(|at| (table.paths[at].as_str(), table.stamp(at)))
}

/// [`Unfinished::create`], once no other process writes the same file.
fn after_others(path: &Path) -> Result<(Unfinished, BufWriter<std::fs::File>)> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Unfinished::create(path) {
            // that another one writes it is the only reason that is none of the disk
            Err(Error::Data { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            created => return created,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &[(&str, u64)]) -> EmbeddingTable {
        EmbeddingTable {
            paths: names.iter().map(|(name, _)| (*name).to_owned()).collect(),
            labels: vec![None; names.len()],
            width: 1,
            features: names.iter().map(|(_, time)| *time as f32).collect(),
            model: Some("hash".to_owned()),
            recipe: Some("cls".to_owned()),
            input: Some("input".to_owned()),
            stamps: names
                .iter()
                .map(|(_, time)| Some(FileStamp(1, *time)))
                .collect(),
        }
    }

    fn sorted(table: &EmbeddingTable) -> Vec<(String, f32)> {
        let paths = table.paths.iter().cloned();
        let mut rows: Vec<_> = paths.zip(table.features.iter().copied()).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }

    #[test]
    fn what_two_processes_add_is_kept() {
        let folder = std::env::temp_dir().join(format!("ibot-store-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("store.safetensors");
        rows(&[("a", 1), ("b", 1), ("c", 1)]).write(&path).unwrap();
        let open = || FeatureStore::open(&path, EmbeddingTable::read).unwrap();
        let (mut one, mut other) = (open(), open());
        // one renews b and adds d, the other drops c, renews a and adds e
        one.write(rows(&[("a", 1), ("b", 2), ("c", 1), ("d", 2)]))
            .unwrap();
        other
            .write(rows(&[("a", 3), ("b", 1), ("longer", 3)]))
            .unwrap();
        let expected = [("a", 3.0), ("b", 2.0), ("d", 2.0), ("longer", 3.0)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        let found = EmbeddingTable::read(&path).unwrap();
        assert_eq!(sorted(&found), expected);
        assert_eq!(other.table(), &found);
        // again by the one that has not seen it, and by the one that has
        one.write(rows(&[("d", 4)])).unwrap();
        assert_eq!(one.table().len(), 3);
        let mut foreign = rows(&[("d", 4)]);
        foreign.model = Some("another".to_owned());
        let refused = other.write(foreign).unwrap_err().to_string();
        assert!(refused.contains("another model"), "{refused}");
        assert_eq!(&EmbeddingTable::read(&path).unwrap(), one.table());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
