//! How far features are from those of normal images.

use rayon::prelude::*;

use crate::eval::features::{finite_unit_rows, unit};
use crate::eval::knn::most_alike;
use crate::eval::products::{row_products, rows_at_once};

/// Rows that are normal, to be near to: features of images, or of patches. Each belongs to an owner, the image that it is
/// of.
///
/// Distances are Euclidean between rows of length one, sqrt(2 - 2 s) at cosine similarity s: from 0 to 2.
pub struct NormalRows {
    /// `[M, D]`, of length one.
    rows: Vec<f32>,
    width: usize,
    /// Rising, `[M]`.
    owners: Vec<usize>,
}

/// How far a row is from normal ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Mean of the distances of the nearest rows.
    pub mean: f32,
    /// Owner of the nearest row.
    pub nearest: usize,
}

impl NormalRows {
    /// Of rows `[M, D]` with D = `width` and their owners, rising, `[M]`; `None` without a row, or where a value is not finite.
    pub fn new(rows: Vec<f32>, width: usize, owners: Vec<usize>) -> Option<Self> {
        if rows.len() != owners.len() * width {
            return None;
        }
        Some(Self {
            rows: finite_unit_rows(rows, width)?,
            width,
            owners,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether there is none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The owners, each once.
    pub fn owners(&self) -> Vec<usize> {
        let mut owners = self.owners.clone();
        owners.dedup();
        owners
    }

    /// Rows of an owner, `[N, D]`.
    pub fn rows_of(&self, owner: usize) -> &[f32] {
        let range = self.range_of(owner);
        &self.rows[range.start * self.width..range.end * self.width]
    }

    fn range_of(&self, owner: usize) -> std::ops::Range<usize> {
        let start = self.owners.partition_point(|own| *own < owner);
        let end = self.owners.partition_point(|own| *own <= owner);
        start..end
    }

    /// How far each query is from its `neighbors` nearest rows; rows of its own image, `own` `[Q]`, are passed over. `None` for
    /// a query without another row.
    ///
    /// The mean over several neighbors is the score of Bergman et al. (arXiv 2002.10445, with 2 neighbors); with one neighbor
    /// and patches it is that of PatchCore (arXiv 2106.08265), but for its reweighting.
    ///
    /// # Shapes
    /// `queries` `[Q, D]` -> `[Q]`.
    pub fn distances(
        &self,
        queries: &[f32],
        own: Option<&[usize]>,
        neighbors: usize,
    ) -> Vec<Option<Distance>> {
        let block = rows_at_once(self.len());
        let queries: Vec<f32> = queries.chunks_exact(self.width).flat_map(unit).collect();
        let mut found = Vec::with_capacity(queries.len() / self.width);
        for (at, block_of) in queries.chunks(block * self.width).enumerate() {
            let mut similarities = row_products(block_of, &self.rows, self.width);
            let rows = similarities.par_chunks_mut(self.len()).enumerate();
            let of_block: Vec<Option<Distance>> = rows
                .map(|(row, similarities)| {
                    if let Some(own) = own.and_then(|own| own.get(at * block + row)) {
                        similarities[self.range_of(*own)].fill(f32::NEG_INFINITY);
                    }
                    self.mean_distance(similarities, neighbors.max(1))
                })
                .collect();
            found.extend(of_block);
        }
        found
    }

    fn mean_distance(&self, similarities: &[f32], neighbors: usize) -> Option<Distance> {
        let near = most_alike(similarities, neighbors);
        let near: Vec<(f32, usize)> = near.into_iter().filter(|(s, _)| s.is_finite()).collect();
        let (_, nearest) = near.first()?;
        let sum: f32 = near
            .iter()
            .map(|(s, _)| (2.0 - 2.0 * s).max(0.0).sqrt())
            .sum();
        Some(Distance {
            mean: sum / near.len() as f32,
            nearest: self.owners[*nearest],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_unit_rows() {
        let rows = vec![2.0, 0.0, 0.0, 3.0, -1.0, 0.0, 0.0, 1.0];
        let normal = NormalRows::new(rows, 2, vec![0, 0, 4, 7]).unwrap();
        assert_eq!(normal.owners(), [0, 4, 7]);
        assert_eq!(normal.rows_of(0), [1.0, 0.0, 0.0, 1.0]);
        assert!(normal.rows_of(1).is_empty());
        let queries = [5.0, 0.0, 0.0, 0.5];
        let one = normal.distances(&queries, None, 1);
        assert_eq!(
            one,
            [Some(Distance {
                mean: 0.0,
                nearest: 0
            }); 2]
        );
        // the two nearest others are at 90 and 180 degrees, in whatever blocks they are found
        let own = normal.distances(&queries, Some(&[0, 7]), 2);
        let at_90 = 2f32.sqrt();
        let expected = [((at_90 + 2.0) / 2.0, 7), (at_90 / 2.0, 0)];
        for (found, (mean, nearest)) in own.iter().zip(expected) {
            let found = found.unwrap();
            assert!((found.mean - mean).abs() < 1e-6, "{found:?}");
            assert_eq!(found.nearest, nearest);
        }
        // fewer rows than neighbors are all of them
        let all = normal.distances(&queries[..2], None, 9)[0].unwrap();
        assert!((all.mean - (2.0 * at_90 + 2.0) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn an_image_alone_has_no_distance() {
        let alone = NormalRows::new(vec![1.0, 2.0], 2, vec![3]).unwrap();
        assert_eq!(alone.distances(&[1.0, 0.0], Some(&[3]), 5), [None]);
        assert!(NormalRows::new(vec![f32::NAN], 1, vec![0]).is_none());
        assert!(NormalRows::new(vec![], 1, vec![]).is_none());
    }
}
