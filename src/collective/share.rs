//! What each rank has of something that all have together.

use std::ops::Range;

use crate::collective::Collective;
use crate::error::{Error, Result};

/// The contiguous share of rank `rank` among `ranks` in `entries` items. Shares follow the order of the ranks; their sizes differ
/// by at most one.
pub fn share(rank: usize, ranks: usize, entries: usize) -> Range<usize> {
    rank * entries / ranks..(rank + 1) * entries / ranks
}

/// Counts of each rank, in the order of the ranks.
///
/// # Errors
/// As [`gather_lists`].
pub fn gather_counts<const N: usize>(
    collective: &dyn Collective,
    own: [usize; N],
) -> Result<Vec<[usize; N]>> {
    if collective.size() == 1 {
        return Ok(vec![own]);
    }
    let lists = gather_lists(collective, &[own])?;
    let one = |(rank, list): (usize, Vec<[usize; N]>)| match list[..] {
        [counts] => Ok(counts),
        _ => Err(not_counts(rank)),
    };
    lists.into_iter().enumerate().map(one).collect()
}

/// Lists of counts of each rank, which may differ in length, in the order of the ranks.
///
/// # Errors
/// As [`Collective`]; [`Error::Training`] where a rank sent something else.
pub fn gather_lists<const N: usize>(
    collective: &dyn Collective,
    own: &[[usize; N]],
) -> Result<Vec<Vec<[usize; N]>>> {
    let counts = own.as_flattened().iter();
    let bytes = counts.flat_map(|count| (*count as u64).to_le_bytes());
    let lists = collective.all_gather(bytes.collect())?;
    let list = |(rank, bytes): (usize, &Vec<u8>)| {
        let (words, []) = bytes.as_chunks() else {
            return Err(not_counts(rank));
        };
        let counts = words.iter().map(|word| u64::from_le_bytes(*word) as usize);
        let counts: Vec<usize> = counts.collect();
        match counts.as_chunks() {
            (list, []) => Ok(list.to_vec()),
            _ => Err(not_counts(rank)),
        }
    };
    lists.iter().enumerate().map(list).collect()
}

fn not_counts(rank: usize) -> Error {
    Error::Training(format!("rank {rank} sent something else than counts"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{LocalRanks, SingleProcess};

    /// What `second` sends instead, as the first of two ranks finds it.
    fn found(second: Vec<u8>) -> Result<Vec<[usize; 2]>> {
        let mut ranks = LocalRanks::group(2).into_iter();
        let [first, other] = [(); 2].map(|()| ranks.next().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || other.all_gather(second));
            gather_counts(&first, [1, 2])
        })
    }

    #[test]
    fn counts_of_another_length_are_refused() {
        assert_eq!(gather_counts(&SingleProcess, [1, 2]).unwrap(), [[1, 2]]);
        let two = [3_u64, 4].map(u64::to_le_bytes).concat();
        assert_eq!(found(two.clone()).unwrap(), [[1, 2], [3, 4]]);
        for wrong in [two[..15].to_vec(), two[..8].to_vec(), vec![], two.repeat(2)] {
            let error = found(wrong).unwrap_err().to_string();
            assert!(error.contains("rank 1"), "{error}");
        }
    }
}
