//! Weighted k-nearest-neighbor classification (Wu et al., arXiv 1805.01978, section 3.4), as DINO reports it.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::eval::features::{FeatureSet, unit};
use crate::eval::products::{row_products, rows_at_once};

/// How neighbors vote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnnConfig {
    /// Number k of neighbors. Default 20. Source: DINO.
    pub neighbors: usize,
    /// A neighbor at cosine similarity `s` votes with `exp(s / temperature)`. Default 0.07. Source: DINO.
    pub temperature: f64,
}

impl Default for KnnConfig {
    /// 20 neighbors, temperature 0.07, as in DINO.
    fn default() -> Self {
        Self {
            neighbors: 20,
            temperature: 0.07,
        }
    }
}

/// How often the neighbors are right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnnScore {
    /// Number of neighbors that voted: the one asked for, or all rows of the bank that have a class where these are fewer.
    pub neighbors: usize,
    /// Share of the queries whose class has the most votes, in 0..=1.
    pub top1: f64,
    /// Share of the queries whose class has votes and is among the five with the most, in 0..=1; as DINO's
    /// `eval_knn.py`, fewer than five neighbors name fewer than five classes.
    pub top5: f64,
}

/// Share of the queries whose class wins the vote of their neighbors in the bank; rows without a class are left out.
/// `None` where either set has no row with a class.
///
/// # Errors
/// [`Error::Stopped`] soon after `stop` is raised.
pub fn knn_accuracy(
    bank: &FeatureSet,
    queries: &FeatureSet,
    config: &KnnConfig,
    stop: &AtomicBool,
) -> Result<Option<f64>> {
    let neighbors = [config.neighbors];
    let scores = knn_report_until(bank, queries, &neighbors, config.temperature, stop)?;
    Ok(scores.and_then(|scores| scores.first().map(|score| score.top1)))
}

/// [`KnnScore`] for each number of neighbors, the search done once for the largest.
///
/// Rows without a class are left out. Neighbors that are equally near, and classes with equal votes, come in order of
/// their index. A bank smaller than a number of neighbors votes as a whole.
///
/// `None` where either set has no row with a class, or their widths differ.
pub fn knn_report(
    bank: &FeatureSet,
    queries: &FeatureSet,
    neighbors: &[usize],
    temperature: f64,
) -> Option<Vec<KnnScore>> {
    let found = knn_report_until(
        bank,
        queries,
        neighbors,
        temperature,
        &AtomicBool::new(false),
    );
    found.ok().flatten() // nobody stops it
}

/// [`knn_report`], which ends soon after `stop` is raised.
///
/// # Errors
/// [`Error::Stopped`].
pub fn knn_report_until(
    bank: &FeatureSet,
    queries: &FeatureSet,
    neighbors: &[usize],
    temperature: f64,
    stop: &AtomicBool,
) -> Result<Option<Vec<KnnScore>>> {
    /// Queries whose similarities are held at once, at most.
    const BLOCK: usize = 128;
    let width = bank.width;
    let (bank_rows, bank_labels) = labeled_unit_rows(bank);
    let (query_rows, query_labels) = labeled_unit_rows(queries);
    let Some(last_class) = bank_labels.iter().max() else {
        return Ok(None);
    };
    let classes = last_class + 1;
    if query_labels.is_empty() || queries.width != width || width == 0 {
        return Ok(None);
    }
    let largest = neighbors.iter().copied().max().unwrap_or(0);
    let mut places = Vec::with_capacity(query_labels.len());
    let block = rows_at_once(bank_labels.len()).min(BLOCK);
    for (rows, labels) in query_rows
        .chunks(block * width)
        .zip(query_labels.chunks(block))
    {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let similarities = row_products(rows, &bank_rows, width);
        // [B, neighbors]: place of the query's class in each vote
        places.par_extend(similarities.par_chunks(bank_labels.len()).zip(labels).map(
            |(similarities, &label)| {
                let near = most_alike(similarities, largest);
                let place = |&count: &usize| {
                    let voters = near
                        .iter()
                        .take(count)
                        .map(|&(s, row)| (s, bank_labels[row]));
                    place_of(label, &votes(voters, classes, temperature))
                };
                neighbors.iter().map(place).collect::<Vec<_>>()
            },
        ));
    }
    let share_below = |index: usize, bound: usize| {
        let hits = places.iter().filter(|places| places[index] < bound);
        hits.count() as f64 / places.len() as f64
    };
    let scores = neighbors
        .iter()
        .enumerate()
        .map(|(index, &count)| KnnScore {
            neighbors: count.min(bank_labels.len()),
            top1: share_below(index, 1),
            top5: share_below(index, 5),
        });
    Ok(Some(scores.collect()))
}

/// Unit rows `[B, D]` and labels `[B]` of the rows that have a class.
fn labeled_unit_rows(set: &FeatureSet) -> (Vec<f32>, Vec<usize>) {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for (row, label) in set.features.chunks_exact(set.width.max(1)).zip(&set.labels) {
        let Some(label) = label else { continue };
        rows.extend(unit(row));
        labels.push(*label);
    }
    (rows, labels)
}

/// The rows most like `query` by cosine similarity, at most `count`, the most alike first.
///
/// # Shapes
/// `features` `[B, D]` row-major, `query` `[D]` with `width` D.
pub fn nearest(features: &[f32], width: usize, query: &[f32], count: usize) -> Vec<(usize, f32)> {
    let query = unit(query);
    let similarity = |row: &[f32]| unit(row).iter().zip(&query).map(|(a, b)| a * b).sum();
    let rows: Vec<&[f32]> = features.chunks_exact(width.max(1)).collect();
    let similarities: Vec<f32> = rows.par_iter().map(|row| similarity(row)).collect();
    let found = most_alike(&similarities, count).into_iter();
    found.map(|(similarity, row)| (row, similarity)).collect()
}

/// The `count` largest similarities and their rows, largest first, equal ones by row.
pub(super) fn most_alike(similarities: &[f32], count: usize) -> Vec<(f32, usize)> {
    let order = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mut near: Vec<_> = similarities.iter().copied().zip(0..).collect();
    if count < near.len() {
        near.select_nth_unstable_by(count, order);
        near.truncate(count);
    }
    near.sort_unstable_by(order);
    near
}

/// Votes of each class, `[classes]`, relative to that of a voter at the first similarity.
fn votes(voters: impl Iterator<Item = (f32, usize)>, classes: usize, temperature: f64) -> Vec<f64> {
    let mut votes = vec![0.0; classes];
    let mut largest = None;
    for (similarity, label) in voters {
        // so that small temperatures do not overflow
        let difference = f64::from(similarity - *largest.get_or_insert(similarity));
        votes[label] += (difference / temperature).exp();
    }
    votes
}

/// Number of classes that win against `label`; `usize::MAX` where it has no vote.
fn place_of(label: usize, votes: &[f64]) -> usize {
    let own = votes.get(label).copied().unwrap_or(0.0);
    if own <= 0.0 {
        return usize::MAX;
    }
    let wins = |&(class, &votes): &(usize, &f64)| votes > own || (votes == own && class < label);
    votes.iter().enumerate().filter(wins).count()
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
    fn neighbors_vote_by_cosine_similarity() {
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
            neighbors: 1,
            ..KnnConfig::default()
        };
        let stop = AtomicBool::new(false);
        let accuracy = |queries: &FeatureSet| knn_accuracy(&bank, queries, &config, &stop);
        let found = accuracy(&queries).unwrap().unwrap();
        assert!((found - 2.0 / 3.0).abs() < 1e-9, "{found}");
        assert_eq!(accuracy(&set(&[([1.0, 0.0], None)])).unwrap(), None);
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(accuracy(&queries), Err(Error::Stopped)));
    }

    #[test]
    fn each_number_of_neighbors_is_its_own_vote() {
        let bank = set(&[
            ([1.0, 0.0], Some(2)),
            ([1.0, 0.1], Some(1)),
            ([1.0, 0.1], Some(1)),
            ([0.0, 1.0], Some(0)),
        ]);
        let queries = set(&[([1.0, 0.0], Some(1)), ([1.0, 0.0], Some(7))]);
        let report = knn_report(&bank, &queries, &[3, 1, 100, 0], 0.07).unwrap();
        let scores: Vec<_> = report
            .iter()
            .map(|s| (s.neighbors, s.top1, s.top5))
            .collect();
        // the last is the whole bank
        let expected = [(3, 0.5, 0.5), (1, 0.0, 0.0), (4, 0.5, 0.5), (0, 0.0, 0.0)];
        assert_eq!(scores, expected);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(
            most_alike(&[0.5, 0.9, 0.5, 0.5, 0.9], 3),
            [(0.9, 1), (0.9, 4), (0.5, 0)]
        );
        assert_eq!(place_of(1, &[1.0, 2.0, 2.0, 3.0]), 1);
        assert_eq!(place_of(2, &[1.0, 2.0, 2.0, 3.0]), 2);
    }

    #[test]
    fn small_temperatures_do_not_overflow() {
        let bank = set(&[([1.0, 0.0], Some(0)), ([1.0, 0.1], Some(1))]);
        let queries = set(&[([1.0, 0.0], Some(0))]);
        assert_eq!(
            knn_report(&bank, &queries, &[2], 1e-5).unwrap()[0].top1,
            1.0
        );
    }
}
