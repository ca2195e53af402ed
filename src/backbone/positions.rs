//! Position embeddings at other image sizes: the matrix of timm's resampling, no tensors.

/// Parameter of Keys' cubic kernel, torch's where `antialias` is on (-0.75 where it is off).
const KEYS_A: f64 = -0.5;

/// The matrix that resamples a grid of positions to another, row-major.
///
/// Source: timm/layers/pos_embed.py `resample_abs_pos_embed`, which calls torch's `interpolate(mode="bicubic",
/// antialias=True)`. Weights are computed in f64; torch's are f32.
///
/// # Shapes
/// Grids are `[rows, columns]`; -> `[to_rows * to_columns, from_rows * from_columns]`.
pub(crate) fn resample_matrix(from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let row_weights = axis_weights(from[0], to[0]);
    let column_weights = axis_weights(from[1], to[1]);
    let mut matrix = Vec::with_capacity(from[0] * from[1] * to[0] * to[1]);
    for of_row in &row_weights {
        for of_column in &column_weights {
            for y in of_row {
                matrix.extend(of_column.iter().map(|x| (y * x) as f32));
            }
        }
    }
    matrix
}

/// Weights along one axis, one `Vec` of `from` weights for each of the `to` outputs.
///
/// The kernel is as wide as `from / to` where the axis shrinks (antialiasing), and what it loses at the borders is
/// normalized away.
fn axis_weights(from: usize, to: usize) -> Vec<Vec<f64>> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let of_output = |output| {
        let center = scale * (output as f64 + 0.5);
        let weights: Vec<f64> = (0..from)
            .map(|input| keys_cubic((input as f64 + 0.5 - center) / widening))
            .collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    };
    (0..to).map(of_output).collect()
}

/// Keys' cubic convolution kernel (Keys 1981, equation 8), zero at a distance of 2 and beyond.
fn keys_cubic(distance: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        ((KEYS_A + 2.0) * x - (KEYS_A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * KEYS_A
    } else {
        0.0
    }
}

/// The values against torch are in tests/parity (`backbone_at_*`); here is what holds at any size.
#[cfg(test)]
mod tests {
    use super::*;

    /// Shrinking, growing, one of each, a single row, a single position; from and to.
    const GRIDS: [([usize; 2], [usize; 2]); 8] = [
        ([14, 14], [6, 6]),
        ([14, 14], [7, 9]),
        ([4, 4], [3, 5]),
        ([4, 4], [9, 9]),
        ([16, 16], [37, 37]),
        ([5, 8], [8, 5]),
        ([1, 6], [1, 4]),
        ([3, 2], [1, 1]),
    ];

    fn count(grid: [usize; 2]) -> usize {
        grid[0] * grid[1]
    }

    fn assert_near(found: f32, expected: f32, what: &str) {
        assert!(
            (found - expected).abs() < 1e-6,
            "{what}: {found} instead of {expected}"
        );
    }

    #[test]
    fn equal_grids_keep_their_positions() {
        for grid in [[1, 1], [4, 4], [3, 7], [14, 14]] {
            let positions = count(grid);
            let matrix = resample_matrix(grid, grid);
            assert_eq!(matrix.len(), positions * positions);
            for (at, value) in matrix.into_iter().enumerate() {
                let expected = f32::from(at / positions == at % positions);
                assert_eq!(value, expected, "{grid:?} at {at}");
            }
        }
    }

    #[test]
    fn weights_of_an_output_sum_to_one() {
        for (from, to) in GRIDS {
            let matrix = resample_matrix(from, to);
            assert_eq!(matrix.len(), count(from) * count(to));
            for row in matrix.chunks(count(from)) {
                assert_near(row.iter().sum(), 1.0, &format!("{from:?} to {to:?}"));
            }
        }
    }

    #[test]
    fn a_turned_grid_gives_the_turned_result() {
        for (from, to) in GRIDS {
            let matrix = resample_matrix(from, to);
            // half a turn of both grids reverses both indices
            for (found, turned) in matrix.iter().zip(matrix.iter().rev()) {
                assert_near(*found, *turned, &format!("{from:?} to {to:?}"));
            }
        }
    }

    #[test]
    fn rows_and_columns_are_resampled_apart() {
        for (from, to) in GRIDS {
            let matrix = resample_matrix(from, to);
            let of_rows = resample_matrix([from[0], 1], [to[0], 1]);
            let of_columns = resample_matrix([1, from[1]], [1, to[1]]);
            for (at, found) in matrix.into_iter().enumerate() {
                let (output, input) = (at / count(from), at % count(from));
                let row = output / to[1] * from[0] + input / from[1];
                let column = output % to[1] * from[1] + input % from[1];
                let expected = of_rows[row] * of_columns[column];
                assert_near(found, expected, &format!("{from:?} to {to:?} at {at}"));
            }
        }
    }

    #[test]
    fn only_shrinking_widens_the_kernel() {
        let reach = |from, to| {
            let matrix = resample_matrix([from, 1], [to, 1]);
            let inner = &matrix[to / 2 * from..][..from];
            inner.iter().filter(|weight| **weight != 0.0).count()
        };
        assert_eq!(reach(8, 32), 4);
        // a quarter of the size: four times the width
        assert_eq!(reach(32, 8), 16);
    }

    /// Of Keys' kernels only -0.5 does (Keys 1981, section III): it tells torch's two parameters apart.
    #[test]
    fn growing_keeps_a_parabola_away_from_the_borders() {
        let (from, to) = (8, 20);
        let matrix = resample_matrix([1, from], [1, to]);
        let mut checked = 0;
        for (output, weights) in matrix.chunks(from).enumerate() {
            let center = (output as f32 + 0.5) * from as f32 / to as f32;
            if center < 2.0 || center > from as f32 - 2.0 {
                continue;
            }
            let squares = (0..from).map(|input| (input as f32 + 0.5).powi(2));
            let found: f32 = weights.iter().zip(squares).map(|(w, y)| w * y).sum();
            let parabola = center * center;
            assert_near(found / parabola, 1.0, &format!("at {center}"));
            checked += 1;
        }
        assert_eq!(checked, to / 2);
    }
}
