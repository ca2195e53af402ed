//! The shares of ranks in pictures, and what they count.

use std::ops::Range;

use crate::collective::Collective;
use crate::error::Result;

/// This rank's share of so many pictures.
pub(super) fn share(pictures: usize, ranks: &dyn Collective) -> Range<usize> {
    let begin = |rank: usize| rank * pictures / ranks.size();
    begin(ranks.rank())..begin(ranks.rank() + 1)
}

/// Counts of each rank, in the order of the ranks.
///
/// # Errors
/// As [`Collective`].
pub(super) fn counts<const N: usize>(
    own: [usize; N],
    ranks: &dyn Collective,
) -> Result<Vec<[usize; N]>> {
    if ranks.size() == 1 {
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
    Ok(ranks.all_gather(bytes)?.iter().map(of_rank).collect())
}
