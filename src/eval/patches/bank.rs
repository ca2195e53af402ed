//! Nearest neighbors of patches.

use rayon::prelude::*;

use crate::eval::features::{finite_unit_rows, unit};
use crate::eval::knn::most_alike;
use crate::eval::patches::rows::{Cover, PatchRows};
use crate::eval::products::{row_products, rows_at_once};

/// Patches whose classes are known, to be searched by those of other images.
///
/// A patch's neighbors by cosine similarity `s` vote with `exp(s / temperature)`, each for the classes of the pixels under it
/// by their shares. Source: dense nearest-neighbor retrieval of Balažević et al. (Hummingbird, arXiv 2306.01667), as
/// open-hummingbird-eval does it: 30 neighbors, temperature 0.02.
///
/// Differs from it: the search is exact; of a bank that is bounded, patches are drawn at random and not by how rare their
/// classes are; pixels to ignore have no vote, where that counts them as class 0.
pub struct PatchBank {
    /// `[M, D]`, of length one.
    rows: Vec<f32>,
    width: usize,
    covers: Vec<Cover>,
    classes: Vec<u8>,
}

impl PatchBank {
    /// Of these patches; `None` without one, or where a feature is not finite.
    pub fn new(train: PatchRows) -> Option<Self> {
        let classes = train.classes();
        let width = train.width;
        if classes.is_empty() {
            return None;
        }
        Some(Self {
            rows: finite_unit_rows(train.features, width)?,
            width,
            covers: train.covers,
            classes,
        })
    }

    /// The classes that it has scores for, ascending, `[K]`.
    pub fn classes(&self) -> &[u8] {
        &self.classes
    }

    /// Shares of the votes for each class by each number of neighbors, the search done once for the largest.
    ///
    /// # Shapes
    /// `patches` `[N, D]` -> `[N, K]` for each of `neighbors`.
    pub fn scores(&self, patches: &[f32], neighbors: &[usize], temperature: f64) -> Vec<Vec<f64>> {
        let largest = neighbors.iter().copied().max().unwrap_or(0);
        let block = rows_at_once(self.covers.len());
        let queries: Vec<f32> = patches.chunks_exact(self.width).flat_map(unit).collect();
        let mut scores: Vec<Vec<f64>> = vec![Vec::new(); neighbors.len()];
        for queries in queries.chunks(block * self.width) {
            let similarities = row_products(queries, &self.rows, self.width);
            let near: Vec<Vec<(f32, usize)>> = similarities
                .par_chunks(self.covers.len())
                .map(|similarities| most_alike(similarities, largest))
                .collect();
            for (scores, &count) in scores.iter_mut().zip(neighbors) {
                for near in &near {
                    scores.extend(self.votes(&near[..count.min(near.len())], temperature));
                }
            }
        }
        scores
    }

    /// Share of the votes for each class, `[K]`.
    fn votes(&self, near: &[(f32, usize)], temperature: f64) -> Vec<f64> {
        let mut votes = vec![0.0; self.classes.len()];
        let largest = near.first().map_or(0.0, |(similarity, _)| *similarity);
        let mut all = 0.0;
        for (similarity, row) in near {
            // relative to the first, so that small temperatures do not overflow
            let weight = (f64::from(similarity - largest) / temperature).exp();
            let pixels: u32 = self.covers[*row].iter().map(|(_, count)| count).sum();
            for (class, count) in &self.covers[*row] {
                if let Ok(class) = self.classes.binary_search(class) {
                    votes[class] += weight * f64::from(*count) / f64::from(pixels);
                }
            }
            all += weight;
        }
        votes.iter_mut().for_each(|vote| *vote /= all);
        votes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_vote_with_the_shares_of_their_classes() {
        let train = PatchRows {
            features: vec![1.0, 0.0, 3.0, 3.0, 0.0, 2.0],
            width: 2,
            covers: vec![vec![(3, 1), (8, 3)], vec![(8, 4)], vec![(5, 4)]],
            images: vec![0, 0, 1],
        };
        let bank = PatchBank::new(train).unwrap();
        assert_eq!(bank.classes(), [3, 5, 8]);
        let scores = bank.scores(&[2.0, 0.0, 0.0, 1.0], &[1, 2, 9], 0.5);
        assert_eq!(scores[0], [0.25, 0.0, 0.75, 0.0, 1.0, 0.0]);
        // the second neighbor of either query is the row between, at the cosine of 45 degrees
        let weight = ((0.5f64.sqrt() - 1.0) / 0.5).exp();
        let expected = [
            0.25 / (1.0 + weight),
            0.0,
            (0.75 + weight) / (1.0 + weight),
            0.0,
            1.0 / (1.0 + weight),
            weight / (1.0 + weight),
        ];
        let pairs = scores[1].iter().zip(expected);
        assert!(
            pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-6),
            "{scores:?}"
        );
        // a bank smaller than the number of neighbors votes as a whole
        assert!((scores[2][..3].iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(scores[2].iter().filter(|score| **score > 0.0).count() == 6);
    }

    #[test]
    fn what_cannot_be_searched_is_no_bank() {
        assert!(PatchBank::new(PatchRows::default()).is_none());
        let broken = PatchRows {
            features: vec![f32::NAN],
            width: 1,
            covers: vec![vec![(0, 1)]],
            images: vec![0],
        };
        assert!(PatchBank::new(broken).is_none());
    }
}
