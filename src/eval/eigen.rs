//! Eigenvalues and eigenvectors of symmetric matrices, by nalgebra.

use nalgebra::{DMatrix, SymmetricEigen};

/// Of a matrix `[n, n]`, largest eigenvalue first.
pub(super) struct Eigen {
    /// `[n]`.
    pub values: Vec<f64>,
    /// Unit eigenvectors in rows, `[n, n]`.
    pub vectors: Vec<Vec<f64>>,
}

/// Of a symmetric matrix, row-major `[n, n]`. `None` where a value is not finite, there or in what is found.
pub(super) fn symmetric_eigen(matrix: Vec<f64>, n: usize) -> Option<Eigen> {
    /// A bound, as nalgebra has looped without end (its issue 1025); it takes about 2 for each eigenvalue.
    const MAX_ITERATIONS_PER_VALUE: usize = 30;
    if matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    if n == 0 {
        return Some(Eigen {
            values: Vec::new(),
            vectors: Vec::new(),
        });
    }
    // column by column, which is the same for a symmetric matrix
    let matrix = DMatrix::from_vec(n, n, matrix);
    let found = SymmetricEigen::try_new(matrix, f64::EPSILON, MAX_ITERATIONS_PER_VALUE * n)?;
    // one in 100 000 sparse matrices of rank 1 meets numbers too small for the processor (issue 379)
    let mut entries = found.eigenvalues.iter().chain(found.eigenvectors.iter());
    if !entries.all(|entry| entry.is_finite()) {
        return None;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| found.eigenvalues[b].total_cmp(&found.eigenvalues[a]));
    let vector = |&at: &usize| found.eigenvectors.column(at).iter().copied().collect();
    Some(Eigen {
        values: order.iter().map(|&at| found.eigenvalues[at]).collect(),
        vectors: order.iter().map(vector).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_rows_largest_value_first() {
        let eigen = symmetric_eigen(vec![1.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.0, 2.0], 3).unwrap();
        for (found, expected) in eigen.values.iter().zip([3.0, 1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-14, "{found}");
        }
        let first = &eigen.vectors[0];
        assert!(first[0].abs() < 1e-14 && (first[1] * first[2] - 0.5).abs() < 1e-14);
    }

    #[test]
    fn no_values_and_values_that_are_not_finite() {
        assert!(symmetric_eigen(Vec::new(), 0).is_some_and(|eigen| eigen.values.is_empty()));
        assert!(symmetric_eigen(vec![f64::NAN], 1).is_none());
        assert!(symmetric_eigen(vec![1.0, f64::INFINITY, f64::INFINITY, 1.0], 2).is_none());
    }
}
