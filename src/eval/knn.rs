//! Weighted k-nearest-neighbour classification (Wu et al., arXiv 1805.01978, section 3.4), as DINO reports it.

use rayon::prelude::*;

use super::FeatureSet;

/// How neighbours vote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnnConfig {
    /// Number of neighbours.
    pub neighbours: usize,
    /// A neighbour at cosine similarity `s` votes with `exp(s / temperature)`.
    pub temperature: f64,
}

impl Default for KnnConfig {
    /// 20 neighbours, temperature 0.07, as in DINO.
    fn default() -> Self {
        Self {
            neighbours: 20,
            temperature: 0.07,
        }
    }
}

/// Share of the queries whose class wins the vote of their neighbours in the bank; rows without a class are left out.
/// `None` where either set has no row with a class.
pub fn knn_accuracy(bank: &FeatureSet, queries: &FeatureSet, config: &KnnConfig) -> Option<f64> {
    let bank = labelled_unit_rows(bank);
    let queries = labelled_unit_rows(queries);
    let classes = bank.iter().map(|(label, _)| label + 1).max()?;
    if queries.is_empty() {
        return None;
    }
    let correct = queries
        .par_iter()
        .filter(|(label, row)| vote(&bank, row, classes, config) == *label)
        .count();
    Some(correct as f64 / queries.len() as f64)
}

fn labelled_unit_rows(set: &FeatureSet) -> Vec<(usize, Vec<f32>)> {
    set.features
        .chunks_exact(set.width.max(1))
        .zip(&set.labels)
        .filter_map(|(row, label)| Some(((*label)?, unit(row))))
        .collect()
}

fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter().map(|x| x / norm).collect()
}

fn vote(bank: &[(usize, Vec<f32>)], query: &[f32], classes: usize, config: &KnnConfig) -> usize {
    let mut neighbours: Vec<(f32, usize)> = bank
        .iter()
        .map(|(label, row)| (row.iter().zip(query).map(|(a, b)| a * b).sum(), *label))
        .collect();
    neighbours.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut votes = vec![0.0; classes];
    for (similarity, label) in neighbours.into_iter().take(config.neighbours) {
        votes[label] += (f64::from(similarity) / config.temperature).exp();
    }
    let best = votes.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rows: &[([f32; 2], Option<usize>)]) -> FeatureSet {
        FeatureSet {
            features: rows.iter().flat_map(|(row, _)| *row).collect(),
            width: 2,
            labels: rows.iter().map(|(_, label)| *label).collect(),
        }
    }

    #[test]
    fn neighbours_vote_by_cosine_similarity() {
        let bank = set(&[
            ([1.0, 0.0], Some(0)),
            ([9.0, 1.0], Some(0)),
            ([0.0, 0.1], Some(1)),
            ([0.0, 5.0], None),
        ]);
        let queries = set(&[
            ([0.5, 0.1], Some(0)),
            ([0.1, 2.0], Some(1)),
            ([1.0, 0.0], Some(1)),
        ]);
        let config = KnnConfig {
            neighbours: 1,
            ..KnnConfig::default()
        };
        let accuracy = knn_accuracy(&bank, &queries, &config).unwrap();
        assert!((accuracy - 2.0 / 3.0).abs() < 1e-9, "{accuracy}");
        assert_eq!(
            knn_accuracy(&bank, &set(&[([1.0, 0.0], None)]), &config),
            None
        );
    }
}
