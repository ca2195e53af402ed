//! What the ranks of a run do together: all train, and rank 0 writes the folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::collective::{Collective, all_ok, from_rank_0};
use crate::error::Result;
use crate::files::checkpoint::Store;
use crate::finetune::folder::{FinetuneFolder, Found};
use crate::finetune::observer::EpochMetrics;

/// [`Found`] as rank 0 tells it.
#[derive(Serialize, Deserialize)]
enum Told {
    Nothing,
    Checkpoint(usize, Vec<EpochMetrics>),
    Complete(Vec<EpochMetrics>),
}

/// The run folder on rank 0 alone, where `begin` makes or opens it, and on all ranks what there is to resume from: the others read
/// the checkpoint from the folder.
///
/// # Errors
/// As [`Collective`], those of `begin`, and of a rank that cannot read the checkpoint.
pub(super) fn begun_by_rank_0(
    out: &Path,
    ranks: &dyn Collective,
    begin: impl FnOnce() -> Result<(FinetuneFolder, Found)>,
) -> Result<(Option<FinetuneFolder>, Found)> {
    let mut begun = None;
    let told = from_rank_0(ranks, || {
        let (folder, found) = begin()?;
        let told = match &found {
            Found::Nothing => Told::Nothing,
            Found::Checkpoint(of, epochs) => Told::Checkpoint(of.manifest.step, epochs.clone()),
            Found::Complete(epochs) => Told::Complete(epochs.clone()),
        };
        begun = Some((folder, found));
        Ok(told)
    })?;
    let found = match (begun, told) {
        (Some((folder, found)), _) => Ok((Some(folder), found)),
        (None, Told::Nothing) => Ok((None, Found::Nothing)),
        (None, Told::Complete(epochs)) => Ok((None, Found::Complete(epochs))),
        (None, Told::Checkpoint(step, epochs)) => {
            let read = Store::of_run(out).found_by_another(step);
            read.map(|read| (None, Found::Checkpoint(Box::new(read), epochs)))
        }
    };
    all_ok(ranks, found)
}
