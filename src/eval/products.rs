//! Products of feature rows, by the `gemm` crate.

use gemm::{Parallelism, gemm};

/// `f32` or `f64`.
pub(super) trait Number: Copy + Default + From<u8> + 'static {}

impl Number for f32 {}
impl Number for f64 {}

/// How many rows to multiply at once with so many others: their products take 64 MiB in f32 at most.
pub(super) fn rows_at_once(others: usize) -> usize {
    const BYTES: usize = 64 << 20;
    (BYTES / (4 * others.max(1))).max(1)
}

/// Dot products of all pairs of rows: `[L, D]`, `[R, D]` -> `[L, R]`, all row-major.
pub(super) fn row_products<T: Number>(left: &[T], right: &[T], width: usize) -> Vec<T> {
    let width = width.max(1);
    let (rows, columns) = (left.len() / width, right.len() / width);
    let mut products = vec![T::default(); rows * columns];
    // without an incomplete row at the end
    let (left, right) = (&left[..rows * width], &right[..columns * width]);
    let sizes = [rows, width, columns];
    add_product(
        sizes,
        (left, [width, 1]),
        (right, [1, width]),
        &mut products,
    );
    products
}

/// Adds to `sums` the products of all pairs of columns, summed over the rows: `[B, M]`, `[B, N]` -> `[M, N]`.
pub(super) fn add_column_products<T: Number>(
    (left, left_width): (&[T], usize),
    (right, right_width): (&[T], usize),
    sums: &mut [T],
) {
    let sizes = [left_width, left.len() / left_width.max(1), right_width];
    add_product(
        sizes,
        (left, [1, left_width]),
        (right, [right_width, 1]),
        sums,
    );
}

/// A matrix and the distances between its rows and between its columns.
type Strided<'a, T> = (&'a [T], [usize; 2]);

/// `sums += left right`: `[M, K]`, `[K, N]` -> `[M, N]`, on all cores where that helps.
fn add_product<T: Number>(
    [m, k, n]: [usize; 3],
    left: Strided<'_, T>,
    right: Strided<'_, T>,
    sums: &mut [T],
) {
    assert!(left.0.len() == m * k && right.0.len() == k * n && sums.len() == m * n);
    let one = T::from(1);
    let [[left_rows, left_columns], [right_rows, right_columns]] =
        [left, right].map(|(_, steps)| steps.map(|step| step as isize));
    // SAFETY: each matrix is dense with the length just checked, so no entry lies outside; the sums are borrowed by nobody
    // else.
    unsafe {
        gemm(
            m,
            n,
            k,
            sums.as_mut_ptr(),
            1,
            n as isize,
            true,
            left.0.as_ptr(),
            left_columns,
            left_rows,
            right.0.as_ptr(),
            right_columns,
            right_rows,
            one,
            one,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

/// The smaller Gram matrix of rows `[B, D]` less `mean` `[D]`, in double precision: of the rows, `[B, B]`, where B < D, else
/// of the columns, `[D, D]`.
pub(super) fn gram(rows: &[f32], mean: &[f64]) -> Vec<f64> {
    /// Rows that are held in double precision at a time: 6 MB of 768 features.
    const CHUNK: usize = 1024;
    let width = mean.len();
    if rows.len() / width.max(1) < width {
        let rows = centered(rows, mean);
        return row_products(&rows, &rows, width);
    }
    let mut gram = vec![0.0; width * width];
    for chunk in rows.chunks(CHUNK * width.max(1)) {
        let chunk = centered(chunk, mean);
        add_column_products((&chunk, width), (&chunk, width), &mut gram);
    }
    gram
}

/// The rows `[B, D]` in double precision, less `mean` `[D]`.
pub(super) fn centered(rows: &[f32], mean: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| {
        let pairs = row.iter().zip(mean);
        let row: Vec<f64> = pairs
            .map(|(&value, mean)| f64::from(value) - mean)
            .collect();
        row
    };
    rows.chunks_exact(mean.len().max(1)).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    fn rows(count: usize, width: usize) -> Vec<f32> {
        let mut random = Random::new(1, count as u64, width as u64, Stream::Init);
        (0..count * width).map(|_| random.normal() as f32).collect()
    }

    fn product<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> f64 {
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    const SIZES: [(usize, usize, usize); 6] = [
        (1, 1, 1),
        (3, 9, 5),
        (33, 17, 7),
        (70, 8, 2),
        (4, 0, 3),
        (1, 40, 384),
    ];

    #[test]
    fn products_of_rows_and_of_columns() {
        for (left_count, right_count, width) in SIZES {
            let (left, right) = (rows(left_count, width), rows(right_count, width));
            let found = row_products(&left, &right, width);
            for (l, left) in left.chunks(width).enumerate() {
                for (r, right) in right.chunks(width).enumerate() {
                    let error =
                        f64::from(found[l * right_count + r]) - product(left.iter().zip(right));
                    assert!(error.abs() < 1e-4, "{l} {r}: {error}");
                }
            }
            // the same buffers as [width, count]
            let mut sums = vec![1.0; left_count * right_count];
            add_column_products((&left, left_count), (&right, right_count), &mut sums);
            for l in 0..left_count {
                for r in 0..right_count {
                    let left = left.iter().skip(l).step_by(left_count);
                    let right = right.iter().skip(r).step_by(right_count);
                    let error =
                        f64::from(sums[l * right_count + r]) - 1.0 - product(left.zip(right));
                    assert!(error.abs() < 1e-4, "{l} {r}: {error}");
                }
            }
        }
    }

    /// So that the order of the index decides between equal rows, wherever they lie.
    #[test]
    fn equal_rows_have_equal_products() {
        for (left_count, right_count, width) in SIZES.into_iter().chain([(129, 301, 37)]) {
            let [left, right] = [left_count, right_count].map(|count| rows(1, width).repeat(count));
            let found = row_products(&left, &right, width);
            assert!(
                found.iter().all(|product| *product == found[0]),
                "{found:?}"
            );
        }
    }

    #[test]
    fn gram_matrices_of_columns_are_whole() {
        let (count, width) = (2100, 3);
        let rows = rows(count, width);
        let gram = gram(&rows, &[1.0, 0.0, -2.0]);
        let column = |at: usize, mean: f64| -> Vec<f64> {
            let column = rows.iter().skip(at).step_by(width);
            column.map(|value| f64::from(*value) - mean).collect()
        };
        let columns = [column(0, 1.0), column(1, 0.0), column(2, -2.0)];
        for (i, a) in columns.iter().enumerate() {
            for (j, b) in columns.iter().enumerate() {
                let expected: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((gram[i * width + j] - expected).abs() < 1e-9, "{i} {j}");
            }
        }
    }
}
