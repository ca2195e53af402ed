//! Multinomial logistic regression.

use std::collections::BTreeSet;

use crate::eval::features::FeatureSet;
use crate::eval::lbfgs::{Stop, minimize};
use crate::eval::products::{add_column_products, row_products};

/// Multinomial logistic regression on standardized features.
#[derive(Debug, Clone)]
pub struct LogisticRegression {
    /// The classes it knows, ascending, `[K]`.
    pub classes: Vec<usize>,
    /// Mean of each feature in training, `[D]`.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature in training (divided by B), 1 for a constant one, `[D]`.
    pub scale: Vec<f64>,
    /// Row-major `[K, D + 1]`: weights of the standardized features, then the intercept.
    pub parameters: Vec<f64>,
}

impl LogisticRegression {
    /// Minimizes the mean cross-entropy plus `|weights|^2 / (2 * C * B)`, C = `inverse_strength`, as scikit-learn's
    /// `LogisticRegression(C=C)` after `StandardScaler`; intercepts are free.
    ///
    /// Differs from scikit-learn: two classes have a row of weights each, where that has one, so C here is 2 C there.
    ///
    /// `None` without a row that has a class, for features that are not finite, or C not above 0.
    pub fn fit(
        train: &FeatureSet,
        inverse_strength: f64,
        tolerance: f64,
        iterations: usize,
    ) -> Option<Self> {
        let problem = Problem::new(train)?;
        let stop = Stop {
            tolerance,
            iterations,
        };
        let parameters = problem.solve(problem.zeros(), inverse_strength, stop)?;
        Some(problem.model(&parameters))
    }

    /// Shares of the rows with a class that have it first and among the first five, `[top-1, top-5]`. `None` where no
    /// row has a class or the width is another.
    pub fn accuracy(&self, test: &FeatureSet) -> Option<[f64; 2]> {
        if test.width != self.mean.len() {
            return None;
        }
        let rows = standardized(test, &self.mean, &self.scale);
        let classes = self.classes.len();
        let logits = row_products(&rows, &self.parameters, test.width + 1);
        let places: Vec<usize> = logits
            .chunks_exact(classes)
            .zip(&test.labels)
            .filter_map(|(logits, label)| {
                let class = self.classes.binary_search(&(*label)?);
                // of equal logits the first wins; what diverged is right of nothing
                Some(class.map_or(usize::MAX, |class| {
                    let (before, after) = logits.split_at(class);
                    if !logits.iter().all(|logit| logit.is_finite()) {
                        return usize::MAX;
                    }
                    before.iter().filter(|&&logit| logit >= after[0]).count()
                        + after.iter().filter(|&&logit| logit > after[0]).count()
                }))
            })
            .collect();
        let share = |bound| {
            let hits = places.iter().filter(|&&place| place < bound).count();
            hits as f64 / places.len() as f64
        };
        (!places.is_empty()).then(|| [share(1), share(5)])
    }
}

/// Training rows, standardized, with a last column of ones for the intercepts.
pub(super) struct Problem {
    classes: Vec<usize>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// `[B, D + 1]`.
    rows: Vec<f64>,
    /// Index of the class of each row, `[B]`.
    targets: Vec<usize>,
}

impl Problem {
    pub fn new(train: &FeatureSet) -> Option<Self> {
        let labeled: Vec<usize> = (0..train.len())
            .filter(|&row| train.labels[row].is_some())
            .collect();
        let train = rows_of(train, &labeled);
        if train.is_empty() || train.features.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let classes: BTreeSet<usize> = train.labels.iter().flatten().copied().collect();
        let classes: Vec<usize> = classes.into_iter().collect();
        let targets = train.labels.iter().flatten();
        let targets = targets
            .filter_map(|label| classes.binary_search(label).ok())
            .collect();
        let (mean, scale) = moments(&train.features, train.width);
        let rows = standardized(&train, &mean, &scale);
        Some(Self {
            targets,
            classes,
            mean,
            scale,
            rows,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// The same problem of the rows at these places alone.
    pub fn batch(&self, places: &[usize]) -> Self {
        let width = self.mean.len() + 1;
        let row = |at: &usize| &self.rows[at * width..(at + 1) * width];
        Self {
            classes: self.classes.clone(),
            mean: self.mean.clone(),
            scale: self.scale.clone(),
            rows: places.iter().flat_map(row).copied().collect(),
            targets: places.iter().map(|at| self.targets[*at]).collect(),
        }
    }

    pub fn zeros(&self) -> Vec<f64> {
        vec![0.0; self.classes.len() * (self.mean.len() + 1)]
    }

    pub fn model(&self, parameters: &[f64]) -> LogisticRegression {
        LogisticRegression {
            classes: self.classes.clone(),
            mean: self.mean.clone(),
            scale: self.scale.clone(),
            parameters: parameters.to_vec(),
        }
    }

    /// `None` for an inverse strength that is not above 0.
    pub fn solve(&self, start: Vec<f64>, inverse_strength: f64, stop: Stop) -> Option<Vec<f64>> {
        let penalty = 1.0 / (inverse_strength * self.targets.len() as f64);
        let minimum = || {
            minimize(start, stop, |parameters| {
                self.objective(parameters, penalty)
            })
        };
        (inverse_strength > 0.0).then(minimum)
    }

    /// Mean cross-entropy plus `penalty / 2 * |weights|^2`, and its gradient `[K, D + 1]`.
    pub fn objective(&self, parameters: &[f64], penalty: f64) -> (f64, Vec<f64>) {
        let (width, classes) = (self.mean.len() + 1, self.classes.len());
        let share = 1.0 / self.targets.len() as f64;
        let mut logits = row_products(&self.rows, parameters, width);
        let mut value = 0.0;
        for (logits, &target) in logits.chunks_exact_mut(classes).zip(&self.targets) {
            value += share * cross_entropy(logits, &[(target, 1.0)]);
        }
        let d_logits = logits;
        let mut gradient = vec![0.0; parameters.len()];
        add_column_products((&d_logits, classes), (&self.rows, width), &mut gradient);
        gradient.iter_mut().for_each(|gradient| *gradient *= share);
        add_penalty((&mut value, &mut gradient), parameters, width, penalty);
        (value, gradient)
    }
}

/// Adds `penalty / 2 * |weights|^2` of parameters `[K, D + 1]`, whose last column is the intercepts, D + 1 = `width`, and its
/// gradient.
pub(super) fn add_penalty(
    (value, gradient): (&mut f64, &mut [f64]),
    parameters: &[f64],
    width: usize,
    penalty: f64,
) {
    for (at, (gradient, &parameter)) in gradient.iter_mut().zip(parameters).enumerate() {
        if at % width + 1 < width {
            *gradient += penalty * parameter;
            *value += penalty / 2.0 * parameter * parameter;
        }
    }
}

/// The loss of one row against targets, each a class and its weight, summed over their weights; its logits `[K]` become their
/// gradient.
pub(super) fn cross_entropy(logits: &mut [f64], targets: &[(usize, f64)]) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let own = |(class, weight): &(usize, f64)| weight * (logits[*class] - largest);
    let own: f64 = targets.iter().map(own).sum();
    let weight: f64 = targets.iter().map(|(_, weight)| weight).sum();
    logits
        .iter_mut()
        .for_each(|logit| *logit = (*logit - largest).exp());
    let sum: f64 = logits.iter().sum();
    logits
        .iter_mut()
        .for_each(|logit| *logit = *logit * weight / sum);
    for (class, weight) in targets {
        logits[*class] -= weight;
    }
    weight * sum.ln() - own
}

/// Mean and standard deviation of each feature of rows `[B, D]`, D = `width`, `[D]` each.
pub(super) fn moments(features: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = features.chunks_exact(width.max(1));
    let total = rows.len() as f64;
    let mean_of = |value: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; width];
        for row in rows.clone() {
            for (column, (sum, &entry)) in sums.iter_mut().zip(row).enumerate() {
                *sum += value(column, f64::from(entry));
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= total);
        sums
    };
    let mean = mean_of(&|_, value| value);
    let mut scale = mean_of(&|column, value| (value - mean[column]).powi(2));
    for (scale, mean) in scale.iter_mut().zip(&mean) {
        // rounding leaves a constant feature a variance of about 1e-32 of its square
        let varies = *scale > 1e-24 * mean * mean;
        *scale = if varies { scale.sqrt() } else { 1.0 };
    }
    (mean, scale)
}

/// `[B, D] -> [B, D + 1]`, the last column 1.
fn standardized(set: &FeatureSet, mean: &[f64], scale: &[f64]) -> Vec<f64> {
    let row =
        |row: usize| standardized_row(&set.features[row * set.width..][..set.width], mean, scale);
    (0..set.len()).flat_map(row).collect()
}

/// `[D] -> [D + 1]`, the last entry 1.
pub(super) fn standardized_row(
    row: &[f32],
    mean: &[f64],
    scale: &[f64],
) -> impl Iterator<Item = f64> {
    let moments = mean.iter().zip(scale);
    let scaled = row
        .iter()
        .zip(moments)
        .map(|(&value, (mean, scale))| (f64::from(value) - mean) / scale);
    scaled.chain([1.0])
}

/// Some rows of a set.
pub(super) fn rows_of(set: &FeatureSet, rows: &[usize]) -> FeatureSet {
    let features = rows
        .iter()
        .flat_map(|row| &set.features[row * set.width..][..set.width]);
    FeatureSet {
        features: features.copied().collect(),
        width: set.width,
        labels: rows.iter().map(|&row| set.labels[row]).collect(),
    }
}

/// Whether a gradient is the slope of its function everywhere around `at`.
#[cfg(test)]
pub(super) fn assert_is_slope(at: &[f64], function: impl Fn(&[f64]) -> (f64, Vec<f64>)) {
    let (_, gradient) = function(at);
    for index in 0..at.len() {
        let value = |offset: f64| {
            let mut moved = at.to_vec();
            moved[index] += offset;
            function(&moved).0
        };
        let slope = (value(1e-5) - value(-1e-5)) / 2e-5;
        assert!(
            (slope - gradient[index]).abs() < 1e-8,
            "{index}: {slope} {gradient:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    #[test]
    fn gradient_is_the_slope() {
        let mut random = Random::new(2, 0, 0, Stream::Init);
        let train = FeatureSet {
            features: (0..300 * 3).map(|_| random.normal() as f32 + 5.0).collect(),
            width: 3,
            labels: (0..300)
                .map(|row| (row % 7 > 0).then_some(row % 3))
                .collect(),
        };
        let problem = Problem::new(&train).unwrap();
        let at: Vec<f64> = (0..12).map(|_| random.normal()).collect();
        assert_is_slope(&at, |at| problem.objective(at, 0.1));
    }

    #[test]
    fn constant_features_have_no_weight() {
        let train = FeatureSet {
            features: (0..40).flat_map(|row| [0.1, (row % 2) as f32]).collect(),
            width: 2,
            labels: (0..40).map(|row| Some(row % 2)).collect(),
        };
        let model = LogisticRegression::fit(&train, 1.0, 1e-8, 100).unwrap();
        assert_eq!(model.scale, [1.0, 0.5]);
        assert!(model.parameters[0].abs() < 1e-9 && model.parameters[1] < -0.5);
        assert_eq!(model.accuracy(&train), Some([1.0, 1.0]));
    }
}
