//! The checkpoints of a run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, if_there};
use crate::files::checkpoint::manifest::{Checkpoint, Manifest, remove_folder};

const PREFIX: &str = "step-";

/// Which checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Number of newest checkpoints; at least 1.
    pub last: usize,
    /// Whether the one with the best k-NN accuracy is kept too.
    pub best: bool,
    /// The newest one of a step up to this one is kept too.
    pub up_to: Option<usize>,
}

impl Default for Keep {
    /// The last two and the best.
    fn default() -> Self {
        Self {
            last: 2,
            best: true,
            up_to: None,
        }
    }
}

/// A checkpoint that cannot be used, and why.
#[derive(Debug)]
pub struct Damaged {
    /// Its folder.
    pub path: PathBuf,
    /// Its error.
    pub error: Error,
}

/// The folder of a run's checkpoints.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The checkpoints in `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Those of the run in a folder.
    pub fn of_run(run: &Path) -> Self {
        Self::new(run.join("checkpoints"))
    }

    /// The folder, which need not exist.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the checkpoint of a step lies.
    pub fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:09}"))
    }

    /// Steps that have a checkpoint, the newest first; whether it is good is not checked.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<usize>> {
        let entries = if_there(&self.folder, fs::read_dir(&self.folder))?;
        let mut steps = Vec::new();
        for entry in entries.into_iter().flatten() {
            let name = entry.map_err(Error::io(&self.folder))?.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            steps.extend(step.and_then(|step| step.parse::<usize>().ok()));
        }
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest checkpoint that is whole, and the damaged ones that are newer.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed; [`Error::OtherFormat`] where another version of the program wrote
    /// one that is newer than all good ones: it is not damaged and must not be skipped; the newest one's error if
    /// there are checkpoints and all are damaged.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<Damaged>)> {
        self.newest_up_to(usize::MAX)
    }

    /// [`Store::newest`] of those of a step up to `last`.
    ///
    /// # Errors
    /// As [`Store::newest`].
    pub fn newest_up_to(&self, last: usize) -> Result<(Option<Checkpoint>, Vec<Damaged>)> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().filter(|step| *step <= last) {
            let path = self.path(step);
            match Checkpoint::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error @ Error::OtherFormat { .. }) => return Err(error),
                Err(error) => damaged.push(Damaged { path, error }),
            }
        }
        let count = damaged.len();
        match damaged.into_iter().next() {
            Some(newest) => {
                let reason = format!(
                    "all checkpoints are damaged ({count}); the newest: {}; restore one from a copy, or start a new run in another folder with `out`",
                    newest.error
                );
                Err(Error::checkpoint(newest.path, reason))
            }
            None => Ok((None, Vec::new())),
        }
    }

    /// The checkpoint of a step, which another process found.
    ///
    /// # Errors
    /// As [`Checkpoint::read`], with the remedy for a folder that this process does not see.
    pub fn found_by_another(&self, step: usize) -> Result<Checkpoint> {
        Checkpoint::read(&self.path(step)).map_err(|error| {
            let remedy = "the run folder must be one that all ranks see";
            Error::Training(format!("{error}; {remedy}"))
        })
    }

    /// The step with the best k-NN accuracy, of equal ones the newest; none if it was never measured.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed.
    pub fn best(&self) -> Result<Option<usize>> {
        let steps = self.steps()?;
        let knn = |step: usize| Manifest::read(&self.path(step)).ok()?.knn;
        let scored = steps.iter().filter_map(|step| Some((knn(*step)?, *step)));
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        Ok(best.map(|(_, step)| step))
    }

    /// Writes a checkpoint, then removes those that need not be kept.
    ///
    /// # Errors
    /// [`Error::Io`]; the checkpoints before are untouched then.
    pub fn write(&self, checkpoint: &Checkpoint, keep: Keep) -> Result<()> {
        checkpoint.write(&self.path(checkpoint.manifest.step))?;
        self.prune(keep)
    }

    /// Writes the k-NN accuracy into the checkpoint of a step, then removes those that need not be kept.
    ///
    /// # Errors
    /// [`Error::Io`]; the checkpoint is good then, with or without it.
    pub fn score(&self, step: usize, knn: f64, keep: Keep) -> Result<()> {
        let path = self.path(step);
        let manifest = Manifest {
            knn: Some(knn),
            ..Manifest::read(&path)?
        };
        manifest.replace(&path)?;
        self.prune(keep)
    }

    /// Goes back to the checkpoint of the manifest's step, which takes this manifest, and removes those after it. A crash at
    /// any time leaves it whole, with the old manifest or with this one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn go_back(&self, manifest: &Manifest) -> Result<()> {
        manifest.replace(&self.path(manifest.step))?;
        self.remove_after(Some(manifest.step))
    }

    /// Removes incomplete checkpoints after a crash.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_temporary(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Ok(());
        };
        for entry in entries {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the checkpoints after a step, or all, the newest first: damaged ones, or those discarded by a rollback.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_after(&self, step: Option<usize>) -> Result<()> {
        let mut later = self.steps()?.into_iter().filter(|made| Some(*made) > step);
        later.try_for_each(|step| remove(&self.path(step)))
    }

    fn prune(&self, keep: Keep) -> Result<()> {
        let best = self.best()?.filter(|_| keep.best);
        let steps = self.steps()?;
        let of_before = |up_to: usize| steps.iter().find(|step| **step <= up_to);
        let kept = [best, keep.up_to.and_then(of_before).copied()];
        let mut old = steps.iter().skip(keep.last.max(1));
        old.try_for_each(|step| {
            if kept.contains(&Some(*step)) {
                Ok(())
            } else {
                remove(&self.path(*step))
            }
        })
    }
}

/// Renames a checkpoint, then removes it, so that a crash in between leaves no partial one.
fn remove(path: &Path) -> Result<()> {
    let temporary = path.with_extension("tmp");
    remove_folder(&temporary)?;
    fs::rename(path, &temporary).map_err(Error::io(path))?;
    remove_folder(&temporary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::checkpoint::FORMAT;
    use crate::files::state_dict::NamedTensor;

    fn manifest(step: usize, learning_rate_factor: f64) -> Manifest {
        Manifest {
            format: FORMAT,
            ibot: "0".into(),
            step,
            epoch: 0,
            batch: step,
            seed: 0,
            config: String::new(),
            knn: None,
            learning_rate_factor,
            rollbacks: 0,
            loop_state: serde_json::Value::Null,
        }
    }

    /// Found: the step and the factor of the newest one up to `last`, with the tensor that it was written with.
    fn found(store: &Store, last: usize) -> Option<(usize, f64)> {
        let Checkpoint { manifest, tensors } = store.newest_up_to(last).unwrap().0?;
        assert_eq!(tensors["at"].values, [manifest.step as f32]);
        Some((manifest.step, manifest.learning_rate_factor))
    }

    #[test]
    fn the_one_from_before_a_failure_stays_and_is_gone_back_to() {
        let digits = crate::unfinished::unique_digits().unwrap();
        let store = Store::new(std::env::temp_dir().join(format!("ibot-store-{digits}")));
        for step in 0..=6 {
            let tensor = NamedTensor {
                shape: vec![1],
                values: vec![step as f32],
            };
            let checkpoint = Checkpoint {
                manifest: manifest(step, 1.0),
                tensors: [("at".to_owned(), tensor)].into(),
            };
            let keep = Keep {
                last: 1,
                best: false,
                up_to: Some(step.min(3)),
            };
            store.write(&checkpoint, keep).unwrap();
        }
        assert_eq!(store.steps().unwrap(), [6, 3]);
        let all = [2, 5, 9].map(|last| found(&store, last));
        assert_eq!(all, [None, Some((3, 1.0)), Some((6, 1.0))]);
        // killed before the later ones are removed
        let lower = manifest(3, 0.5);
        lower.replace(&store.path(3)).unwrap();
        let all = [5, 9].map(|last| found(&store, last));
        assert_eq!(all, [Some((3, 0.5)), Some((6, 1.0))]);
        store.go_back(&lower).unwrap();
        assert_eq!(store.steps().unwrap(), [3]);
        assert_eq!(found(&store, 9), Some((3, 0.5)));
        fs::remove_dir_all(store.folder()).unwrap();
    }
}
