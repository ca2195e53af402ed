//! How a batch is divided, and in which order its parts are summed.

use std::ops::Range;

use crate::collective::{Pairwise, share};

/// A batch of so many images in parts of at most `most`, as equal as possible: sizes differ by at most one, so that no
/// part needs much more memory than another. One part at least.
pub(super) fn ranges_of_parts(batch: usize, most: Option<usize>) -> Vec<Range<usize>> {
    let count = batch.div_ceil(most.unwrap_or(batch).max(1)).max(1);
    (0..count).map(|at| share(at, count, batch)).collect()
}

/// The order in which the parts of a batch are summed on so many ranks, in words: equal words are equal bits.
pub(in crate::train) fn order_of_sums(
    batch: usize,
    ranks: usize,
    most: Option<usize>,
) -> Option<String> {
    let add = |a: String, b: String| format!("({a} {b})");
    let mut all = Pairwise::default();
    for rank in 0..ranks {
        let share = share(rank, ranks, batch);
        let mut own = Pairwise::default();
        for part in ranges_of_parts(share.len(), most) {
            let (start, end) = (share.start + part.start, share.start + part.end);
            own.push(format!("{start}-{end}"), add);
        }
        all.push(own.finish(add)?, add);
    }
    all.finish(add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_are_summed_in_one_order_on_1_2_and_4_ranks() {
        let order = |ranks, most| order_of_sums(8, ranks, most).unwrap();
        let four = "((0-2 2-4) (4-6 6-8))";
        assert_eq!([1, 2, 4].map(|ranks| order(ranks, Some(2))), [four; 3]);
        assert_eq!(order(3, Some(3)), order(1, Some(3)));
        assert_eq!(order(1, None), "0-8");
        assert_ne!(order(3, Some(2)), order(1, Some(2)));
        assert_ne!(order(2, None), order(1, None));
    }
}
