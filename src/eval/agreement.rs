//! How well two labelings agree, clusters and classes as a rule.

use std::collections::BTreeMap;

/// Normalized mutual information of two labelings `[B]`, in 0..=1: the mutual information over the mean of the two
/// entropies, as scikit-learn's `normalized_mutual_info_score`. 1 where each is one class.
pub fn normalized_mutual_information(a: &[usize], b: &[usize]) -> f64 {
    let table = Contingency::new(a, b);
    if table.a.len() <= 1 && table.b.len() <= 1 {
        return 1.0;
    }
    let total = table.total;
    let term = |(&(a, b), &count): (&(usize, usize), &f64)| {
        count / total * (count * total / (table.a[&a] * table.b[&b])).ln()
    };
    let information: f64 = table.cells.iter().map(term).sum();
    let entropy = |sizes: &BTreeMap<usize, f64>| -> f64 {
        let shares = sizes.values().map(|size| size / total);
        shares.map(|share| -share * share.ln()).sum()
    };
    let normalized = information / ((entropy(&table.a) + entropy(&table.b)) / 2.0);
    normalized.clamp(0.0, 1.0)
}

/// Adjusted Rand index of two labelings `[B]` (Hubert and Arabie, 1985), as scikit-learn's `adjusted_rand_score`: 1 for
/// equal partitions, about 0 for unrelated ones, at least -0.5.
pub fn adjusted_rand_index(a: &[usize], b: &[usize]) -> f64 {
    let pairs = |size: &f64| size * (size - 1.0) / 2.0;
    let table = Contingency::new(a, b);
    let together: f64 = table.cells.values().map(pairs).sum();
    let in_a: f64 = table.a.values().map(pairs).sum();
    let in_b: f64 = table.b.values().map(pairs).sum();
    let expected = in_a * in_b / pairs(&table.total).max(1.0);
    let largest = (in_a + in_b) / 2.0;
    if largest == expected {
        // both are one class, or both are single rows
        return 1.0;
    }
    (together - expected) / (largest - expected)
}

/// How many rows have each pair of labels.
struct Contingency {
    cells: BTreeMap<(usize, usize), f64>,
    a: BTreeMap<usize, f64>,
    b: BTreeMap<usize, f64>,
    total: f64,
}

impl Contingency {
    fn new(a: &[usize], b: &[usize]) -> Self {
        let mut table = Self {
            cells: BTreeMap::new(),
            a: BTreeMap::new(),
            b: BTreeMap::new(),
            total: a.len().min(b.len()) as f64,
        };
        for (&a, &b) in a.iter().zip(b) {
            *table.cells.entry((a, b)).or_default() += 1.0;
            *table.a.entry(a).or_default() += 1.0;
            *table.b.entry(b).or_default() += 1.0;
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_of_special_labelings() {
        let (a, b) = ([0, 0, 1, 1], [7, 7, 3, 3]);
        assert!((normalized_mutual_information(&a, &b) - 1.0).abs() < 1e-12);
        assert_eq!(adjusted_rand_index(&a, &b), 1.0);
        // independent: 0, and each pair that is together in one is apart in the other
        let b = [0, 1, 0, 1];
        assert_eq!(normalized_mutual_information(&a, &b), 0.0);
        assert!((adjusted_rand_index(&a, &b) + 0.5).abs() < 1e-12);
        for labels in [&[][..], &[1], &[2, 2]] {
            assert_eq!(normalized_mutual_information(labels, labels), 1.0);
            assert_eq!(adjusted_rand_index(labels, labels), 1.0);
        }
    }
}
