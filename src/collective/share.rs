//! What each rank has of something that all have together.

use std::ops::Range;

use crate::collective::Collective;
use crate::error::Result;

/// The contiguous share of rank `rank` among `ranks` in `entries` items. Shares follow the order of the ranks; their sizes differ
/// by at most one.
pub fn share(rank: usize, ranks: usize, entries: usize) -> Range<usize> {
    rank * entries / ranks..(rank + 1) * entries / ranks
}

/// Counts of each rank, in the order of the ranks.
///
/// # Errors
/// As [`Collective`].
pub fn gather_counts<const N: usize>(
    collective: &dyn Collective,
    own: [usize; N],
) -> Result<Vec<[usize; N]>> {
    if collective.size() == 1 {
        return Ok(vec![own]);
    }
    let bytes = own.map(|count| (count as u64).to_le_bytes()).concat();
    let of_rank = |bytes: &Vec<u8>| {
        let mut counts = [0; N];
        for (count, bytes) in counts.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *count = u64::from_le_bytes(*bytes) as usize;
        }
        counts
    };
    Ok(collective.all_gather(bytes)?.iter().map(of_rank).collect())
}
