//! Patches of two images that belong together.

use crate::eval::features::unit;

/// Pairs of a row of `left` and one of `right` that are each other's nearest by cosine similarity, the most alike first, with that
/// similarity.
///
/// # Shapes
/// `[N, D]` and `[M, D]`, row by row, with `width` D.
pub fn mutual_matches(left: &[f32], right: &[f32], width: usize) -> Vec<([usize; 2], f32)> {
    let unit = |rows: &[f32]| -> Vec<Vec<f32>> {
        let rows = rows.chunks_exact(width.max(1));
        rows.map(unit).collect()
    };
    let (left, right) = (unit(left), unit(right));
    let likeness = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let nearest = |row: &[f32], others: &[Vec<f32>]| {
        let likenesses = others.iter().map(|other| likeness(row, other)).enumerate();
        likenesses.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let back: Vec<Option<usize>> = right
        .iter()
        .map(|row| nearest(row, &left).map(|(at, _)| at))
        .collect();
    let mut pairs: Vec<(f32, [usize; 2])> = left
        .iter()
        .enumerate()
        .filter_map(|(from, row)| {
            let (to, likeness) = nearest(row, &right)?;
            (back[to] == Some(from)).then_some((likeness, [from, to]))
        })
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    pairs
        .into_iter()
        .map(|(likeness, pair)| (pair, likeness))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mutual_neighbors_match() {
        let left = [1.0, 0.0, 0.0, 2.0, 0.9, 0.1];
        let right = [0.0, 1.0, 3.0, 0.0];
        // row 2 of the left is nearest to row 1 of the right, which is nearer to row 0
        let pairs = mutual_matches(&left, &right, 2);
        assert_eq!(pairs, [([0, 1], 1.0), ([1, 0], 1.0)]);
        assert!(mutual_matches(&left, &[], 2).is_empty());
    }
}
