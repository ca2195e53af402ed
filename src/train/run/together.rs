//! What the ranks of a run do together: one of them, number 0, writes its folder, and all make the same decisions.

use crate::collective::{Collective, Wire, all_ok, broadcast, check_equal, from_rank_0};
use crate::error::{Error, Result, counted};
use crate::files::NamedTensor;
use crate::files::checkpoint::Checkpoint;
use crate::train::config::RunConfig;
use crate::train::run::folder::RunFolder;
use crate::train::run::observer::Observer;
use crate::train::settings_diff::{differing, flatten};
use crate::train::trainer::{Tensors, order_of_sums};

/// Passes on the notes of a rank other than 0, with the rank's number before them, and its device; rank 0 reports everything else.
pub(super) struct OfRank<'a> {
    pub rank: usize,
    pub observer: &'a mut dyn Observer,
}

impl Observer for OfRank<'_> {
    fn note(&mut self, line: &str) {
        let rank = self.rank;
        self.observer.note(&format!("rank {rank}: {line}"));
    }

    // what rank 0 says too
    fn scanned(&mut self, _: &[std::path::PathBuf], _: &crate::data::ScanSummary) {}
    fn held_out(&mut self, _: usize, _: usize) {}
    fn device(&mut self, selected: &crate::device::Selected) {
        self.observer.device(selected);
    }
}

/// Refuses ranks whose settings, as TOML, differ from those of rank 0; the error names the keys.
///
/// # Errors
/// As [`Collective`]; such a rank, on all.
pub(super) fn same_settings(own: &str, ranks: &dyn Collective) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let first = broadcast(ranks, own.as_bytes().to_vec())?;
    all_ok(ranks, compared(own, &String::from_utf8_lossy(&first)))
}

fn compared(own: &str, first: &str) -> Result<()> {
    let read = |settings: &str| {
        let table = toml::from_str(settings);
        let broken = |error| Error::Ranks(format!("settings that ranks compare: {error}"));
        table.map(|table| flatten(&table)).map_err(broken)
    };
    let differ = differing(&read(own)?, &read(first)?).into_iter();
    let differ = differ.map(|(key, [own, first])| format!("{key} is {own} and not {first}"));
    let differ: Vec<String> = differ.collect();
    if differ.is_empty() {
        Ok(())
    } else {
        Err(Error::Ranks(format!(
            "its settings differ from those of rank 0: {}",
            differ.join(", ")
        )))
    }
}

/// The checkpoint that `find` finds on rank 0, on all ranks: the others read it from the folder.
///
/// # Errors
/// As [`Collective`], those of `find`, and of a rank that cannot read it.
pub(super) fn found_by_rank_0(
    folder: &mut RunFolder,
    ranks: &dyn Collective,
    find: impl FnOnce(&mut RunFolder) -> Result<Option<Checkpoint>>,
) -> Result<Option<Checkpoint>> {
    if ranks.size() == 1 {
        return find(folder);
    }
    let mut found = None;
    let step = from_rank_0(ranks, || {
        found = find(folder)?;
        Ok(found.as_ref().map(|found| found.manifest.step))
    })?;
    let read = match (&found, step) {
        (None, Some(step)) => folder.checkpoint_of(step).map(Some),
        _ => Ok(found),
    };
    all_ok(ranks, read)
}

/// Checks that all ranks hold the same tensors, by their hashes.
///
/// # Errors
/// As [`Collective`]; the ranks whose tensors differ from those of rank 0, by their numbers.
pub(crate) fn check_same_tensors(
    tensors: &Tensors,
    step: usize,
    ranks: &dyn Collective,
) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        for value in &tensor.values {
            hasher.update(&value.to_le_bytes());
        }
    }
    let what = format!("step {step}: weights, centers or moments");
    check_equal(ranks, &what, hasher.finalize().as_bytes()).map_err(|error| {
        Error::Ranks(format!(
            "{error}; nothing was written: devices of different kinds round differently, and a faulty one miscounts; run \
             the same command again to resume from the newest checkpoint"
        ))
    })
}

/// The tensors of rank 0, one after the other, so that none holds them twice; `own` of the other ranks is empty.
///
/// # Errors
/// As [`Collective`].
pub(super) fn tensors_of_rank_0(mut own: Tensors, ranks: &dyn Collective) -> Result<Tensors> {
    let names = from_rank_0(ranks, || {
        let named = own.iter();
        Ok(named
            .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
            .collect::<Vec<_>>())
    })?;
    let mut tensors = Tensors::new();
    for (name, shape) in names {
        let of_first = own.remove(&name).map(|tensor| tensor.values);
        let bytes = broadcast(ranks, Wire::F32.bytes(&of_first.unwrap_or_default()))?;
        let values = Wire::F32.values(&bytes);
        tensors.insert(name, NamedTensor { shape, values });
    }
    Ok(tensors)
}

/// Says what another number of ranks means for a run that resumes.
pub(super) fn note_other_ranks(
    before: Option<usize>,
    config: &RunConfig,
    ranks: usize,
    observer: &mut dyn Observer,
) {
    let Some(before) = before.filter(|before| *before != ranks) else {
        return;
    };
    let order = |ranks| order_of_sums(config.batch_size, ranks, config.micro_batch_size);
    let means = if order(before) == order(ranks) {
        "each batch stays in the same parts, and results are the same to the last bit, as long as `streaming_prototypes` \
             stores or tiles logits as before"
    } else {
        "each batch is in other parts, and results differ by rounding (`micro_batch_size` sets the parts)"
    };
    let [before, now] = [before, ranks].map(|ranks| counted(ranks, "rank"));
    observer.note(&format!("resumes on {now} instead of {before}: {means}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::LocalRanks;

    #[test]
    fn all_take_the_tensors_of_rank_0() {
        let of_rank = |rank: usize| -> Tensors {
            let tensor = |length: usize| NamedTensor {
                shape: vec![length],
                values: vec![rank as f32 - 0.1; length],
            };
            [("a".to_owned(), tensor(3)), ("b".to_owned(), tensor(0))].into()
        };
        let ranks = LocalRanks::group(3).into_iter().map(|ranks| {
            std::thread::spawn(move || {
                let own = of_rank(ranks.rank());
                let differ = check_same_tensors(&own, 7, &ranks).unwrap_err().to_string();
                assert!(differ.contains("step 7") && differ.contains("rank 1, 2 differ"));
                let taken = tensors_of_rank_0(own, &ranks).unwrap();
                check_same_tensors(&taken, 7, &ranks).unwrap();
                assert_eq!(taken, of_rank(0));
            })
        });
        for rank in ranks.collect::<Vec<_>>() {
            rank.join().unwrap();
        }
    }
}
