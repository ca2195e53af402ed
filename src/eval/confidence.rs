//! How far a measured accuracy can be trusted.

use std::collections::BTreeMap;

use crate::random::{Random, Stream};

/// Mean and spread of a number over repetitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation, divided by n - 1; 0 for one value.
    pub deviation: f64,
}

/// `None` without values.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (!values.is_empty()).then(|| Spread {
        mean,
        deviation: (squares / (count - 1.0).max(1.0)).sqrt(),
    })
}

/// Lower and upper end of the 95 % interval of an accuracy (in 0..=1) measured on a number of queries, each right or
/// wrong on its own: the score interval of Wilson (1927), which stays inside 0..=1. All of it without queries.
pub fn wilson_interval(accuracy: f64, queries: usize) -> [f64; 2] {
    /// The normal distribution has 95 % within this many standard deviations.
    const Z: f64 = 1.959_963_984_540_054;
    if queries == 0 {
        return [0.0, 1.0];
    }
    let count = queries as f64;
    let scale = 1.0 + Z * Z / count;
    let center = accuracy + Z * Z / (2.0 * count);
    let half = Z * (accuracy * (1.0 - accuracy) / count + Z * Z / (4.0 * count * count)).sqrt();
    [(center - half) / scale, (center + half) / scale].map(|end| end.clamp(0.0, 1.0))
}

/// Rows in two parts, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The larger part, as a rule.
    pub kept: Vec<usize>,
    /// The share that was asked for.
    pub held_out: Vec<usize>,
}

/// Holds out a share (in 0..=1) of the rows of each class, drawn from the seed; rows without a class are split as one
/// more class.
///
/// The number of each class is rounded, but a class of two rows or more is in both parts; a single row is kept.
pub fn stratified_split(labels: &[Option<usize>], share: f64, seed: u64) -> Split {
    let mut classes: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (row, label) in labels.iter().enumerate() {
        classes.entry(*label).or_default().push(row);
    }
    let mut random = Random::new(seed, 0, 0, Stream::Shuffle);
    let (mut kept, mut held_out) = (Vec::new(), Vec::new());
    for mut rows in classes.into_values() {
        random.shuffle(&mut rows);
        // a cast from float saturates
        let rounded = (share * rows.len() as f64).round() as usize;
        let least = usize::from(rows.len() > 1);
        let count = rounded.clamp(least, (rows.len() - 1).max(least));
        held_out.extend_from_slice(&rows[..count]);
        kept.extend_from_slice(&rows[count..]);
    }
    kept.sort_unstable();
    held_out.sort_unstable();
    Split { kept, held_out }
}

/// [`stratified_split`] for images to train on without labels and to evaluate by their classes: rows without a class are of no use to
/// the evaluation, and are all kept, unless no row has one. Those with a class are split as there.
pub fn labeled_split(labels: &[Option<usize>], share: f64, seed: u64) -> Split {
    let Split { mut kept, held_out } = stratified_split(labels, share, seed);
    if labels.iter().all(Option::is_none) {
        return Split { kept, held_out };
    }
    let (held_out, unlabeled): (Vec<usize>, Vec<usize>) =
        held_out.into_iter().partition(|row| labels[*row].is_some());
    kept.extend(unlabeled);
    kept.sort_unstable();
    Split { kept, held_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_stay_inside_0_to_1() {
        assert_eq!(wilson_interval(0.0, 20)[0], 0.0);
        assert_eq!(wilson_interval(1.0, 20)[1], 1.0);
        assert_eq!(wilson_interval(0.5, 0), [0.0, 1.0]);
        // about 1.96 * sqrt(0.25 / n) for many queries
        let [low, high] = wilson_interval(0.5, 1_000_000);
        assert!((high - low - 2.0 * 0.000_98).abs() < 1e-6);
    }

    #[test]
    fn spread_of_few_values() {
        let found = spread(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((found.mean, found.deviation), (2.0, 1.0));
        assert_eq!(spread(&[4.0]).unwrap().deviation, 0.0);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn splits_hold_out_a_share_of_each_class() {
        let labels: Vec<_> = (0..100)
            .map(|row| (row % 4 > 0).then_some(row % 4 / 2))
            .collect();
        let split = stratified_split(&labels, 0.2, 3);
        let held = |class| {
            split
                .held_out
                .iter()
                .filter(|&&row| labels[row] == class)
                .count()
        };
        assert_eq!([held(None), held(Some(0)), held(Some(1))], [5, 5, 10]);
        let mut all = [split.kept.clone(), split.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(stratified_split(&labels, 0.2, 3), split);
        assert_ne!(stratified_split(&labels, 0.2, 4), split);
    }

    #[test]
    fn rows_without_a_class_are_kept_where_others_have_one() {
        // ten unlabeled rows for each labeled one
        let labels: Vec<_> = (0..1100)
            .map(|row| (row % 11 == 0).then_some(row % 2))
            .collect();
        let [all, split] = [stratified_split, labeled_split].map(|split| split(&labels, 0.2, 3));
        assert_eq!((all.held_out.len(), split.held_out.len()), (220, 20));
        let labeled = all
            .held_out
            .into_iter()
            .filter(|row| labels[*row].is_some());
        assert!(labeled.eq(split.held_out.iter().copied()), "as before");
        let mut rows = [split.kept.clone(), split.held_out].concat();
        assert!(split.kept.is_sorted());
        rows.sort_unstable();
        assert_eq!(rows, (0..1100).collect::<Vec<_>>());
        for labels in [vec![None; 10], vec![Some(0); 10], Vec::new()] {
            let [all, split] =
                [stratified_split, labeled_split].map(|split| split(&labels, 0.2, 3));
            assert_eq!(all, split);
        }
    }

    #[test]
    fn small_classes_are_in_both_parts() {
        let labels = [Some(0), Some(0), Some(1), Some(2), Some(2)];
        for share in [0.0, 0.01, 1.0, 5.0, f64::NAN] {
            let split = stratified_split(&labels, share, 0);
            assert_eq!((split.kept.len(), split.held_out.len()), (3, 2), "{share}");
            assert!(split.kept.contains(&2));
        }
        assert!(stratified_split(&[], 0.5, 0).kept.is_empty());
    }
}
