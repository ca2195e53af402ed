//! Principal components of feature rows, and patch features as colors.

use crate::eval::eigen::symmetric_eigen;
use crate::eval::products::{add_column_products, centered, gram, row_products};

/// The directions in which rows vary most.
#[derive(Debug, Clone)]
pub struct Pca {
    /// Mean row, `[D]`.
    pub mean: Vec<f64>,
    /// Unit vectors in rows, largest variance first, `[n, D]`. The entry of largest absolute value is positive, as in
    /// scikit-learn's `PCA`.
    pub components: Vec<Vec<f64>>,
    /// Variance along each (divided by B - 1), `[n]`.
    pub variances: Vec<f64>,
}

impl Pca {
    /// Of row-major rows `[B, D]`, D = `width`; n is `count`, or fewer where the rows vary in fewer directions.
    ///
    /// `None` for fewer than two rows, no dimension, or values that are not finite.
    pub fn fit(rows: &[f32], width: usize, count: usize) -> Option<Self> {
        let total = rows.len() / width.max(1);
        if total < 2 || width == 0 {
            return None;
        }
        let mean = mean_row(rows, width);
        let eigen = symmetric_eigen(gram(rows, &mean), total.min(width))?;
        // what is left of a direction in which nothing varies is rounding
        let least = eigen.values[0] * 1e-12;
        let pairs = eigen.values.iter().zip(eigen.vectors);
        let (variances, vectors): (Vec<_>, Vec<_>) = pairs
            .take_while(|&(&value, _)| value > least)
            .take(count)
            .map(|(value, vector)| (value / (total - 1) as f64, vector))
            .unzip();
        let components = if total < width {
            sums_of_rows(&centered(rows, &mean), width, &vectors)
        } else {
            vectors
        };
        let components = components.into_iter().map(with_length_and_sign).collect();
        Some(Self {
            mean,
            components,
            variances,
        })
    }

    /// Coordinates of rows `[B, D]` along the components, row-major `[B, n]`.
    pub fn project(&self, rows: &[f32]) -> Vec<f64> {
        let width = self.mean.len();
        row_products(
            &centered(rows, &self.mean),
            &self.components.concat(),
            width,
        )
    }
}

/// `[B, D] -> [D]`.
fn mean_row(rows: &[f32], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        for (mean, &value) in mean.iter_mut().zip(row) {
            *mean += f64::from(value);
        }
    }
    let total = (rows.len() / width) as f64;
    mean.iter().map(|sum| sum / total).collect()
}

/// The rows `[B, D]` times the weights in each vector `[B]`, summed: `[D]` for each.
fn sums_of_rows(rows: &[f64], width: usize, vectors: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let sum = |weights: &Vec<f64>| {
        let mut sum = vec![0.0; width];
        add_column_products((weights, 1), (rows, width), &mut sum);
        sum
    };
    vectors.iter().map(sum).collect()
}

/// The vector with length one and its entry of largest absolute value positive.
fn with_length_and_sign(mut vector: Vec<f64>) -> Vec<f64> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let largest = (vector.iter().copied())
        .reduce(|largest, x| if x.abs() > largest.abs() { x } else { largest })
        .unwrap_or(1.0);
    vector.iter_mut().for_each(|x| *x /= norm.copysign(largest));
    vector
}

/// A color for each patch: its coordinates along the first three principal components of all patches, as red, green
/// and blue. Patches of several images get joint colors when given in one call.
///
/// Each component is stretched from its 2nd to its 98th percentile to 0..=255, so single patches do not take the range
/// (DINOv2, arXiv 2304.07193, figure 1, takes minimum and maximum). A component that does not exist is 128.
///
/// # Shapes
/// `patches` is row-major `[N, D]`, D = `width`; `[N]` colors. `None` as for [`Pca::fit`].
pub fn patch_pca_rgb(patches: &[f32], width: usize) -> Option<Vec<[u8; 3]>> {
    let pca = Pca::fit(patches, width, 3)?;
    let found = pca.components.len();
    let coordinates = pca.project(patches);
    let mut colors = vec![[128; 3]; patches.len() / width.max(1)];
    for channel in 0..found {
        let values = || coordinates.iter().skip(channel).step_by(found).copied();
        let mut sorted: Vec<f64> = values().collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (percentile(&sorted, 0.02), percentile(&sorted, 0.98));
        for (color, value) in colors.iter_mut().zip(values()) {
            // a cast from float saturates; 0 / 0 becomes 0
            color[channel] = (255.0 * (value - low) / (high - low)).round() as u8;
        }
    }
    Some(colors)
}

/// Linear between neighbors, as NumPy's; 0 for no value.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let low = sorted.get(place.floor() as usize).copied().unwrap_or(0.0);
    let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    #[test]
    fn a_line_has_one_component() {
        // Along (-3, 4) / 5 at -5, 0 and 5: variance 25.
        let rows = [3.0, -4.0, 0.0, 0.0, -3.0, 4.0];
        let pca = Pca::fit(&rows, 2, 2).unwrap();
        assert_eq!(pca.components.len(), 1);
        assert!((pca.variances[0] - 25.0).abs() < 1e-12);
        assert!((pca.components[0][0] + 0.6).abs() < 1e-12);
        assert!((pca.components[0][1] - 0.8).abs() < 1e-12);
        let projected = pca.project(&rows);
        assert!((projected[0] + 5.0).abs() < 1e-12 && (projected[2] - 5.0).abs() < 1e-12);
        assert!(Pca::fit(&[1.0, 2.0], 2, 1).is_none());
        assert!(Pca::fit(&[1.0, f32::NAN, 2.0, 1.0], 2, 1).is_none());
        assert!(
            Pca::fit(&[1.0, 2.0, 1.0, 2.0], 2, 1)
                .unwrap()
                .components
                .is_empty()
        );
    }

    #[test]
    fn wide_and_tall_rows_agree() {
        // Six rows in 5 columns, and the same with 5 columns of zeros: the second goes by the rows' Gram matrix.
        let mut random = Random::new(6, 0, 0, Stream::Init);
        let tall: Vec<f32> = (0..30).map(|_| random.normal() as f32).collect();
        let wide: Vec<f32> = tall
            .chunks(5)
            .flat_map(|row| row.iter().copied().chain([0.0; 5]))
            .collect();
        let (tall, wide) = (
            Pca::fit(&tall, 5, 4).unwrap(),
            Pca::fit(&wide, 10, 4).unwrap(),
        );
        assert_eq!(tall.components.len(), 4);
        for i in 0..4 {
            assert!((tall.variances[i] - wide.variances[i]).abs() < 1e-12);
            for j in 0..5 {
                assert!((tall.components[i][j] - wide.components[i][j]).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn colors_span_the_range_and_ignore_outliers() {
        let mut rows: Vec<f32> = (0..101).flat_map(|i| [i as f32, 7.0]).collect();
        let colors = patch_pca_rgb(&rows, 2).unwrap();
        assert_eq!(colors.len(), 101);
        assert_eq!(
            (colors[0], colors[50], colors[100]),
            ([0, 128, 128], [128; 3], [255, 128, 128])
        );
        rows[0] = -1e4;
        let robust = patch_pca_rgb(&rows, 2).unwrap();
        assert!(robust[50][0].abs_diff(128) < 5, "{:?}", robust[50]);
    }

    #[test]
    fn percentiles_are_linear() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(percentile(&[1.0], 0.98), 1.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
