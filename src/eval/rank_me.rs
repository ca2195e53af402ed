//! How many directions the features use, without labels.

use crate::eval::eigen::symmetric_eigen;
use crate::eval::features::FeatureSet;
use crate::eval::products::gram;

/// RankMe: exp of the entropy of the singular values' shares, from about 1 (one direction) to min(B, D).
///
/// Each share is the singular value over the sum of all, plus 1e-7, as in the paper (Garrido et al., arXiv 2210.02885,
/// equation 1), whose features are neither centered nor scaled. The singular values come from the smaller of the two
/// Gram matrices in double precision, so those below 1e-8 of the largest are rounding errors.
///
/// `None` where there is no row, all features are zero, or one is not finite.
pub fn rank_me(set: &FeatureSet) -> Option<f64> {
    const EPSILON: f64 = 1e-7;
    let (rows, width) = (set.len(), set.width);
    let gram = gram(&set.features, &vec![0.0; width]);
    let eigen = symmetric_eigen(gram, rows.min(width))?;
    let singular = eigen.values.iter().map(|value| value.max(0.0).sqrt());
    let sum: f64 = singular.clone().sum();
    let shares = singular.map(|value| value / sum + EPSILON);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    (sum > 0.0).then(|| entropy.exp())
}

/// Mean over the dimensions of the standard deviation of the unit rows: 0 where all rows point one way (collapse),
/// `1 / sqrt(D)` where they are spread evenly.
///
/// Source: SimSiam (Chen and He, arXiv 2011.10566, section 4.1); divides by B - 1, as PyTorch's `std` and lightly's
/// `std_of_l2_normalized` do. `None` for fewer than two rows or no dimension.
pub fn feature_std(set: &FeatureSet) -> Option<f64> {
    let (rows, width) = (set.len(), set.width);
    if rows < 2 || width == 0 {
        return None;
    }
    let units: Vec<Vec<f64>> = set.features.chunks_exact(width).map(unit).collect();
    let deviation = |column: usize| {
        let values = units.iter().map(|row| row[column]);
        let mean = values.clone().sum::<f64>() / rows as f64;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        (squares / (rows - 1) as f64).sqrt()
    };
    Some((0..width).map(deviation).sum::<f64>() / width as f64)
}

/// The row divided by its length.
fn unit(row: &[f32]) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|value| value / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    fn set(rows: usize, width: usize, value: impl FnMut(usize) -> f32) -> FeatureSet {
        FeatureSet {
            features: (0..rows * width).map(value).collect(),
            width,
            labels: vec![None; rows],
        }
    }

    #[test]
    fn rank_counts_equal_directions() {
        // Scaled identity, and one direction in four; 1e-7 a share adds about 1e-5 to the rank.
        let diagonal = set(4, 4, |i| if i / 4 == i % 4 { 3.0 } else { 0.0 });
        assert!((rank_me(&diagonal).unwrap() - 4.0).abs() < 1e-4);
        let line = set(6, 4, |i| (i / 4 + 1) as f32);
        assert!((rank_me(&line).unwrap() - 1.0).abs() < 1e-4);
        assert_eq!(rank_me(&set(3, 2, |_| 0.0)), None);
        assert_eq!(rank_me(&set(0, 2, |_| 0.0)), None);
        assert_eq!(rank_me(&set(1, 1, |_| f32::NAN)), None);
    }

    #[test]
    fn both_gram_matrices_give_one_rank() {
        let mut random = Random::new(4, 0, 0, Stream::Init);
        let wide = set(5, 9, |_| random.normal() as f32);
        let tall = set(9, 5, |i| wide.features[i % 5 * 9 + i / 5]);
        let difference = rank_me(&wide).unwrap() - rank_me(&tall).unwrap();
        assert!(difference.abs() < 1e-9, "{difference}");
    }

    #[test]
    fn spread_rows_have_one_over_root_width() {
        let mut random = Random::new(5, 0, 0, Stream::Init);
        let spread = set(20_000, 16, |_| random.normal() as f32);
        assert!((feature_std(&spread).unwrap() - 0.25).abs() < 1e-3);
        let collapsed = set(10, 3, |i| ((i % 3 + 1) * (i / 3 + 1)) as f32);
        assert!(feature_std(&collapsed).unwrap() < 1e-12);
        // units 1 and -1: mean 0, variance 2 / (2 - 1)
        let opposed = set(2, 1, |i| if i == 0 { 5.0 } else { -0.1 });
        assert!((feature_std(&opposed).unwrap() - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(feature_std(&set(1, 3, |_| 1.0)), None);
    }
}
