//! Dot products of all pairs of rows, in blocks that stay in cache.

use std::ops::{AddAssign, Mul};

use rayon::prelude::*;

/// Rows of the left side that one pass over the panels serves: 32 x 384 values are 48 KB.
const BLOCK: usize = 32;
/// Rows of the left side that share each value read from a panel.
const GROUP: usize = 4;

/// `f32` or `f64`.
pub(super) trait Number:
    Copy + Default + Send + Sync + Mul<Output = Self> + AddAssign
{
}

impl Number for f32 {}
impl Number for f64 {}

/// Rows `[R, D]` stored as panels `[D, LANES]`, so that the sums of `LANES` rows run side by side.
///
/// 8 lanes of `f32` or 4 of `f64`: with [`GROUP`] they take 8 of the 16 registers of SSE2.
pub(super) struct Panels<T, const LANES: usize> {
    panels: Vec<[T; LANES]>,
    width: usize,
    rows: usize,
}

impl<T: Number, const LANES: usize> Panels<T, LANES> {
    /// From row-major `[R, D]`; an incomplete panel ends in rows of zeros.
    pub fn new(rows: &[T], width: usize) -> Self {
        let width = width.max(1);
        let count = rows.len() / width;
        let mut panels = vec![[T::default(); LANES]; count.div_ceil(LANES) * width];
        for (index, row) in rows.chunks_exact(width).enumerate() {
            let panel = &mut panels[index / LANES * width..][..width];
            for (lanes, &value) in panel.iter_mut().zip(row) {
                lanes[index % LANES] = value;
            }
        }
        Self {
            panels,
            width,
            rows: count,
        }
    }

    /// Adds left row `l` times panel row `r` to `sums[l][r]`, for left `[L, D]` and sums `[L, R]`.
    pub fn add_products(&self, left: &[T], sums: &mut [T]) {
        left.par_chunks(BLOCK * self.width)
            .zip(sums.par_chunks_mut(BLOCK * self.rows.max(1)))
            .for_each(|(left, sums)| self.add_block(left, sums, self.rows));
    }

    /// As [`Panels::add_products`] where both sides are the same rows: sums `[R, R]`, only the blocks that touch the
    /// lower triangle.
    pub fn add_lower_products(&self, left: &[T], sums: &mut [T]) {
        left.par_chunks(BLOCK * self.width)
            .zip(sums.par_chunks_mut(BLOCK * self.rows.max(1)))
            .enumerate()
            .for_each(|(block, (left, sums))| {
                self.add_block(left, sums, self.rows.min((block + 1) * BLOCK));
            });
    }

    /// For the first `columns` rows of the panels.
    fn add_block(&self, left: &[T], sums: &mut [T], columns: usize) {
        let panels = self.panels.chunks_exact(self.width);
        for (index, panel) in panels.take(columns.div_ceil(LANES)).enumerate() {
            let first = index * LANES;
            let used = LANES.min(self.rows - first);
            for (group, rows) in left.chunks(GROUP * self.width).enumerate() {
                let products = group_products(panel, rows, self.width);
                for (row, products) in (0..rows.len() / self.width).zip(products) {
                    let place = (group * GROUP + row) * self.rows + first;
                    for (sum, product) in sums[place..place + used].iter_mut().zip(products) {
                        *sum += product;
                    }
                }
            }
        }
    }
}

/// Rows `[up to GROUP, D]` times one panel; a missing row repeats the first.
fn group_products<T: Number, const LANES: usize>(
    panel: &[[T; LANES]],
    rows: &[T],
    width: usize,
) -> [[T; LANES]; GROUP] {
    let rows: [&[T]; GROUP] = std::array::from_fn(|row| {
        rows.get(row * width..(row + 1) * width)
            .unwrap_or(&rows[..width])
    });
    let mut sums = [[T::default(); LANES]; GROUP];
    for (column, lanes) in panel.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let value = row[column];
            for (sum, &lane) in sums.iter_mut().zip(lanes) {
                *sum += value * lane;
            }
        }
    }
    sums
}

/// Sums over all rows of the products of two columns, in double precision: `[B, D] -> [D, D]`, less `mean` first.
pub(super) fn column_products(rows: &[f32], width: usize, mean: &[f64]) -> Vec<f64> {
    /// Rows that are transposed at a time: a panel of them takes 8 KB.
    const DEPTH: usize = 256;
    let mut sums = vec![0.0; width * width];
    for chunk in rows.chunks(DEPTH * width.max(1)) {
        let depth = chunk.len() / width.max(1);
        let mut columns = vec![0.0; width * depth];
        for (index, row) in chunk.chunks_exact(width).enumerate() {
            for (column, (value, mean)) in row.iter().zip(mean).enumerate() {
                columns[column * depth + index] = f64::from(*value) - mean;
            }
        }
        Panels::<f64, 4>::new(&columns, depth).add_lower_products(&columns, &mut sums);
    }
    mirror(&mut sums, width);
    sums
}

/// Products of all pairs of rows, in double precision: `[B, D] -> [B, B]`, less `mean` first.
pub(super) fn row_products(rows: &[f32], width: usize, mean: &[f64]) -> Vec<f64> {
    let centred: Vec<f64> = rows
        .chunks_exact(width.max(1))
        .flat_map(|row| {
            row.iter()
                .zip(mean)
                .map(|(&value, mean)| f64::from(value) - mean)
        })
        .collect();
    let count = rows.len() / width.max(1);
    let mut sums = vec![0.0; count * count];
    Panels::<f64, 4>::new(&centred, width).add_lower_products(&centred, &mut sums);
    mirror(&mut sums, count);
    sums
}

/// Copies the lower triangle of `[n, n]` to the upper one.
fn mirror(matrix: &mut [f64], n: usize) {
    for row in 0..n {
        for column in 0..row {
            matrix[column * n + row] = matrix[row * n + column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    fn rows(count: usize, width: usize) -> Vec<f32> {
        let mut random = Random::new(1, count as u64, width as u64, Stream::Init);
        (0..count * width).map(|_| random.normal() as f32).collect()
    }

    fn product(left: &[f32], right: &[f32]) -> f64 {
        let pairs = left.iter().zip(right);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn products_of_odd_sizes_are_dot_products() {
        for (left_count, right_count, width) in
            [(1, 1, 1), (3, 9, 5), (33, 17, 7), (70, 8, 2), (4, 0, 3)]
        {
            let (left, right) = (rows(left_count, width), rows(right_count, width));
            let mut sums = vec![1.0; left_count * right_count];
            Panels::<f32, 8>::new(&right, width).add_products(&left, &mut sums);
            for (l, left) in left.chunks(width).enumerate() {
                for (r, right) in right.chunks(width).enumerate() {
                    let expected = 1.0 + product(left, right);
                    let got = f64::from(sums[l * right_count + r]);
                    assert!((got - expected).abs() < 1e-5, "{l} {r}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn gram_matrices_are_whole() {
        let (count, width) = (301, 37);
        let rows = rows(count, width);
        let mean = vec![0.0; width];
        let columns: Vec<f32> = (0..width * count)
            .map(|i| rows[i % count * width + i / count])
            .collect();
        let sides = [
            (column_products(&rows, width, &mean), &columns, count),
            (row_products(&rows, width, &mean), &rows, width),
        ];
        for (gram, vectors, length) in sides {
            let n = vectors.len() / length;
            assert_eq!(gram.len(), n * n);
            for i in 0..n {
                for j in 0..n {
                    let expected = product(
                        &vectors[i * length..][..length],
                        &vectors[j * length..][..length],
                    );
                    assert!((gram[i * n + j] - expected).abs() < 1e-9, "{i} {j}");
                }
            }
        }
    }
}
