//! Eigenvalues and eigenvectors of symmetric matrices: Householder reflections, then implicit QL.
//!
//! Source: `tred2` and `tql2` of EISPACK (Wilkinson and Reinsch, Handbook for Automatic Computation II, 1971), with
//! vectors kept in rows, so that both steps run along memory.

use rayon::prelude::*;

/// Of a matrix `[n, n]`, largest eigenvalue first.
pub(super) struct Eigen {
    /// `[n]`.
    pub values: Vec<f64>,
    /// Unit eigenvectors in rows, `[n, n]`; none where only values were asked for.
    pub vectors: Vec<Vec<f64>>,
}

/// Of a symmetric matrix, row-major `[n, n]`. `None` where a value is not finite.
pub(super) fn symmetric_eigen(matrix: Vec<f64>, n: usize, with_vectors: bool) -> Option<Eigen> {
    if matrix.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mut reflected = Tridiagonal::reduce(matrix, n);
    let mut vectors = if with_vectors {
        reflected.basis()
    } else {
        Vec::new()
    };
    diagonalise(&mut reflected.diagonal, &mut reflected.beside, &mut vectors)?;
    let values = reflected.diagonal;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    Some(Eigen {
        values: order.iter().map(|&i| values[i]).collect(),
        vectors: order
            .iter()
            .filter_map(|&i| vectors.get_mut(i).map(std::mem::take))
            .collect(),
    })
}

/// The matrix after n - 2 Householder reflections.
struct Tridiagonal {
    diagonal: Vec<f64>,
    /// `beside[i]` couples i and i + 1; the last is 0.
    beside: Vec<f64>,
    /// Reflection k is 1 - `scales[k]` v v', with v in row k to the right of the diagonal, `[n, n]`.
    reflections: Vec<f64>,
    scales: Vec<f64>,
}

impl Tridiagonal {
    fn reduce(mut matrix: Vec<f64>, n: usize) -> Self {
        let mut beside = vec![0.0; n];
        let mut scales = vec![0.0; n];
        for k in 0..n.saturating_sub(2) {
            let (head, rest) = matrix.split_at_mut((k + 1) * n);
            let v = &mut head[k * n + k + 1..];
            beside[k] = -dot(v, v).sqrt().copysign(v[0]);
            v[0] -= beside[k];
            let square = dot(v, v);
            if square == 0.0 {
                continue;
            }
            let scale = 2.0 / square;
            scales[k] = scale;
            // A -= v w' + w v' with w = scale * (A v) - scale^2 / 2 * (v' A v) v
            let mut w: Vec<f64> = rest
                .par_chunks(n)
                .with_min_len(64)
                .map(|row| scale * dot(&row[k + 1..], v))
                .collect();
            let half = scale / 2.0 * dot(&w, v);
            add_scaled(&mut w, -half, v);
            rest.par_chunks_mut(n)
                .with_min_len(64)
                .enumerate()
                .for_each(|(i, row)| {
                    for ((value, v_j), w_j) in row[k + 1..].iter_mut().zip(&*v).zip(&w) {
                        *value -= v[i] * w_j + w[i] * v_j;
                    }
                });
        }
        if n >= 2 {
            beside[n - 2] = matrix[(n - 2) * n + n - 1];
        }
        Self {
            diagonal: (0..n).map(|i| matrix[i * n + i]).collect(),
            beside,
            reflections: matrix,
            scales,
        }
    }

    /// The vectors in which the matrix is tridiagonal, in rows.
    fn basis(&self) -> Vec<Vec<f64>> {
        let n = self.diagonal.len();
        let row = |j: usize| {
            let mut row = vec![0.0; n];
            row[j] = 1.0;
            // reflections from j on leave unit vector j as it is
            for k in (0..j.min(n.saturating_sub(2))).rev() {
                let v = &self.reflections[k * n + k + 1..(k + 1) * n];
                let row = &mut row[k + 1..];
                add_scaled(row, -self.scales[k] * dot(row, v), v);
            }
            row
        };
        (0..n).into_par_iter().map(row).collect()
    }
}

/// Rotates until nothing is left beside the diagonal; `vectors` (none, or n rows) turn along. `None` where 60 sweeps
/// for one eigenvalue do not suffice, which finite values never need.
fn diagonalise(d: &mut [f64], e: &mut [f64], vectors: &mut [Vec<f64>]) -> Option<()> {
    let sizes = d.iter().zip(&*e).map(|(d, e)| d.abs() + e.abs());
    let negligible = f64::EPSILON * sizes.fold(0.0, f64::max);
    for low in 0..d.len() {
        let mut sweeps = 0;
        loop {
            let high = (low..d.len()).find(|&m| e[m].abs() <= negligible)?;
            if high == low {
                break;
            }
            sweeps += 1;
            if sweeps > 60 {
                return None;
            }
            sweep(d, e, vectors, low, high);
        }
    }
    Some(())
}

/// One QL sweep with Wilkinson's shift over rows `low..=high`.
fn sweep(d: &mut [f64], e: &mut [f64], vectors: &mut [Vec<f64>], low: usize, high: usize) {
    let slope = (d[low + 1] - d[low]) / (2.0 * e[low]);
    let shift = e[low] / (slope + slope.hypot(1.0).copysign(slope));
    let mut g = d[high] - d[low] + shift;
    let (mut sine, mut cosine, mut p) = (1.0, 1.0, 0.0);
    for i in (low..high).rev() {
        let f = sine * e[i];
        let b = cosine * e[i];
        let length = f.hypot(g);
        e[i + 1] = length;
        if length == 0.0 {
            d[i + 1] -= p;
            e[high] = 0.0;
            return;
        }
        (sine, cosine) = (f / length, g / length);
        g = d[i + 1] - p;
        let r = (d[i] - g) * sine + 2.0 * cosine * b;
        p = sine * r;
        d[i + 1] = g + p;
        g = cosine * r - b;
        if let Some([lower, upper]) = vectors.get_mut(i..i + 2) {
            for (x, y) in lower.iter_mut().zip(upper) {
                (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
            }
        }
    }
    d[low] -= p;
    e[low] = g;
    e[high] = 0.0;
}

/// Scalar product; eight sums side by side, as the compiler may not reorder one.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// `target += factor * other`.
pub(super) fn add_scaled(target: &mut [f64], factor: f64, other: &[f64]) {
    for (target, other) in target.iter_mut().zip(other) {
        *target += factor * other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    #[test]
    fn two_by_two_is_exact() {
        let eigen = symmetric_eigen(vec![2.0, 1.0, 1.0, 2.0], 2, true).unwrap();
        assert!((eigen.values[0] - 3.0).abs() < 1e-14 && (eigen.values[1] - 1.0).abs() < 1e-14);
        assert!((eigen.vectors[0][0] * eigen.vectors[0][1] - 0.5).abs() < 1e-14);
    }

    #[test]
    fn vectors_rebuild_the_matrix() {
        let mut random = Random::new(3, 0, 0, Stream::Init);
        // rank 0: the matrix is zero; 1 and n / 2: many equal eigenvalues
        for (n, rank) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (5, 0),
            (8, 1),
            (40, 20),
            (65, 65),
        ] {
            let factors: Vec<f64> = (0..n * rank).map(|_| random.normal()).collect();
            let entry = |i: usize, j: usize| {
                let (a, b) = (&factors[i * rank..][..rank], &factors[j * rank..][..rank]);
                dot(a, b)
            };
            let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
            let eigen = symmetric_eigen(matrix.clone(), n, true).unwrap();
            let only_values = symmetric_eigen(matrix.clone(), n, false).unwrap();
            assert_eq!((eigen.vectors.len(), only_values.vectors.len()), (n, 0));
            assert!(eigen.values.is_sorted_by(|a, b| a >= b));
            for (a, b) in eigen.values.iter().zip(&only_values.values) {
                assert!((a - b).abs() < 1e-11, "{n} {rank}: {a} {b}");
            }
            for i in 0..n {
                for j in 0..n {
                    let terms = eigen.values.iter().zip(&eigen.vectors);
                    let rebuilt: f64 = terms.map(|(value, v)| value * v[i] * v[j]).sum();
                    let error = rebuilt - matrix[i * n + j];
                    assert!(error.abs() < 1e-11, "{n} {rank}: {error}");
                    let product = dot(&eigen.vectors[i], &eigen.vectors[j]);
                    let expected = if i == j { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-12, "{n} {rank}: {product}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_none() {
        assert!(symmetric_eigen(vec![f64::NAN], 1, true).is_none());
        assert!(symmetric_eigen(vec![1.0, f64::INFINITY, f64::INFINITY, 1.0], 2, false).is_none());
    }
}
