//! k-means.

use rayon::prelude::*;

use crate::eval::products::row_products;
use crate::random::Random;

/// How to look for clusters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KMeansConfig {
    /// Number of clusters; more than there are rows are not found.
    pub clusters: usize,
    /// Largest number of passes over the rows; one that moves no row is the last.
    pub iterations: usize,
    /// Number of starts, of which the one with the smallest inertia is kept.
    pub restarts: usize,
}

impl KMeansConfig {
    /// 100 passes and 3 starts.
    pub fn new(clusters: usize) -> Self {
        Self {
            clusters,
            iterations: 100,
            restarts: 3,
        }
    }
}

/// Clusters of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// Cluster of each row, `[B]`.
    pub assignments: Vec<usize>,
    /// Means of the clusters, row-major `[clusters, D]`.
    pub centers: Vec<f32>,
    /// Sum of the squared distances of the rows to their centers.
    pub inertia: f64,
}

/// k-means (Lloyd) from k-means++ seeds (Arthur and Vassilvitskii, 2007) of rows `[B, D]`, D = `width`.
///
/// Unit rows give clusters by cosine similarity (their centers are not unit vectors). A cluster that lost all rows
/// moves to the row farthest from its center. `None` without rows, clusters or starts, or where a value is not finite.
pub fn k_means(
    rows: &[f32],
    width: usize,
    config: &KMeansConfig,
    random: &mut Random,
) -> Option<Clustering> {
    let count = rows.len() / width.max(1);
    let clusters = config.clusters.min(count);
    if clusters == 0 || width == 0 || rows.iter().any(|value| !value.is_finite()) {
        return None;
    }
    (0..config.restarts)
        .map(|_| {
            lloyd(
                rows,
                width,
                seeds(rows, width, clusters, random),
                config.iterations,
            )
        })
        .min_by(|a, b| a.inertia.total_cmp(&b.inertia))
}

/// Rows drawn one after the other, each with a chance proportional to the squared distance to the nearest one so far.
fn seeds(rows: &[f32], width: usize, clusters: usize, random: &mut Random) -> Vec<f32> {
    let count = rows.len() / width;
    let mut centers = Vec::with_capacity(clusters * width);
    let mut distances = vec![f64::INFINITY; count];
    let mut next = random.below(count);
    for _ in 0..clusters {
        let center = &rows[next * width..][..width];
        centers.extend_from_slice(center);
        distances
            .par_iter_mut()
            .zip(rows.par_chunks_exact(width))
            .with_min_len(256)
            .for_each(|(distance, row)| *distance = distance.min(squared_distance(row, center)));
        let mut left = random.unit() * distances.iter().sum::<f64>();
        let passed = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        // all rows lie on centers, or rounding
        next = passed.unwrap_or_else(|| random.below(count));
    }
    centers
}

fn lloyd(rows: &[f32], width: usize, mut centers: Vec<f32>, iterations: usize) -> Clustering {
    let mut assignments = assign(rows, width, &centers);
    for _ in 0..iterations {
        centers = means(rows, width, &assignments, &centers);
        let moved = assign(rows, width, &centers);
        if moved == assignments {
            break;
        }
        assignments = moved;
    }
    let inertia = distances(rows, width, &assignments, &centers).iter().sum();
    Clustering {
        assignments,
        centers,
        inertia,
    }
}

/// Nearest center of each row; of equally near ones the first.
fn assign(rows: &[f32], width: usize, centers: &[f32]) -> Vec<usize> {
    /// Rows whose products are held at once.
    const BLOCK: usize = 1024;
    let clusters = centers.len() / width;
    // |x - c|^2 = |x|^2 + |c|^2 - 2 x c, of which |x|^2 decides nothing
    let halves: Vec<f32> = centers
        .chunks_exact(width)
        .map(|center| center.iter().map(|x| x * x).sum::<f32>() / 2.0)
        .collect();
    let mut assignments = Vec::with_capacity(rows.len() / width);
    for block in rows.chunks(BLOCK * width) {
        let products = row_products(block, centers, width);
        assignments.par_extend(products.par_chunks(clusters).map(|products| {
            let scores = products
                .iter()
                .zip(&halves)
                .map(|(product, half)| half - product);
            let best = scores.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            best.map_or(0, |(cluster, _)| cluster)
        }));
    }
    assignments
}

fn means(rows: &[f32], width: usize, assignments: &[usize], centers: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; centers.len()];
    let mut counts = vec![0usize; centers.len() / width];
    for (row, &cluster) in rows.chunks_exact(width).zip(assignments) {
        counts[cluster] += 1;
        for (sum, &value) in sums[cluster * width..].iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let mut means: Vec<f32> = sums
        .iter()
        .enumerate()
        .map(|(at, sum)| (sum / counts[at / width] as f64) as f32)
        .collect();
    let mut far = distances(rows, width, assignments, centers);
    for cluster in (0..counts.len()).filter(|&cluster| counts[cluster] == 0) {
        let farthest = (0..far.len()).max_by(|&a, &b| far[a].total_cmp(&far[b]));
        let row = farthest.unwrap_or(0);
        far[row] = 0.0;
        means[cluster * width..][..width].copy_from_slice(&rows[row * width..][..width]);
    }
    means
}

/// Squared distance of each row to its center, `[B]`.
fn distances(rows: &[f32], width: usize, assignments: &[usize], centers: &[f32]) -> Vec<f64> {
    rows.par_chunks_exact(width)
        .zip(assignments)
        .map(|(row, &cluster)| squared_distance(row, &centers[cluster * width..][..width]))
        .collect()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::adjusted_rand_index;
    use super::*;
    use crate::random::Stream;

    #[test]
    fn separate_groups_are_found() {
        let mut random = Random::new(1, 0, 0, Stream::Init);
        let classes: Vec<usize> = (0..300).map(|row| row % 3).collect();
        let rows: Vec<f32> = classes
            .iter()
            .flat_map(|&class| [class as f64 * 10.0, 5.0].map(|mean| mean as f32))
            .map(|mean| mean + random.normal() as f32)
            .collect();
        let found = k_means(&rows, 2, &KMeansConfig::new(3), &mut random).unwrap();
        assert_eq!(adjusted_rand_index(&classes, &found.assignments), 1.0);
        // two dimensions of variance 1
        assert!(
            (found.inertia / 600.0 - 1.0).abs() < 0.15,
            "{}",
            found.inertia
        );
        let mut again = Random::new(1, 0, 0, Stream::Init);
        (0..600).for_each(|_| {
            again.normal();
        });
        assert_eq!(
            k_means(&rows, 2, &KMeansConfig::new(3), &mut again),
            Some(found)
        );
    }

    #[test]
    fn few_or_equal_rows_have_their_clusters() {
        let mut random = Random::new(2, 0, 0, Stream::Init);
        let pair = k_means(&[1.0, 4.0], 1, &KMeansConfig::new(5), &mut random).unwrap();
        assert_eq!((pair.centers.len(), pair.inertia), (2, 0.0));
        let equal = k_means(&[3.0; 6], 1, &KMeansConfig::new(2), &mut random).unwrap();
        assert_eq!((equal.assignments, equal.inertia), (vec![0; 6], 0.0));
        assert_eq!(k_means(&[], 1, &KMeansConfig::new(2), &mut random), None);
        assert_eq!(k_means(&[1.0], 1, &KMeansConfig::new(0), &mut random), None);
        assert_eq!(
            k_means(&[f32::NAN], 1, &KMeansConfig::new(1), &mut random),
            None
        );
    }

    #[test]
    fn an_empty_cluster_moves_to_the_farthest_row() {
        let rows = [0.0, 1.0, 9.0];
        assert_eq!(means(&rows, 1, &[0, 0, 0], &[0.0, 50.0]), [10.0 / 3.0, 9.0]);
        let found = lloyd(&rows, 1, vec![0.0, 50.0], 10);
        assert_eq!(found.assignments, [0, 0, 1]);
        assert_eq!(found.inertia, 0.5);
    }
}
