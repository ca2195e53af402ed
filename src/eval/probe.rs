//! Linear probe: logistic regression on frozen features, its penalty chosen on held-out rows.

use super::FeatureSet;
use super::confidence::stratified_split;
use super::lbfgs::Stop;
use super::logistic::{LogisticRegression, Problem, rows_of};

/// How the probe is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// Inverse strengths of the L2 penalty to choose from, each above 0: scikit-learn's `C`.
    pub inverse_strengths: Vec<f64>,
    /// A fit ends where no entry of its gradient is larger.
    pub tolerance: f64,
    /// A fit ends after this many steps.
    pub iterations: usize,
    /// Draws the rows that choose.
    pub seed: u64,
}

impl Default for ProbeConfig {
    /// Strengths from 1e-4 to 1, tolerance 1e-5, 1000 steps.
    fn default() -> Self {
        Self {
            inverse_strengths: vec![1e-4, 1e-3, 1e-2, 0.1, 1.0],
            tolerance: 1e-5,
            iterations: 1000,
            seed: 0,
        }
    }
}

/// What the probe reaches on the test rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeScore {
    /// Share of the rows whose class has the largest logit, in 0..=1.
    pub top1: f64,
    /// Share of the rows whose class is among the five largest, in 0..=1.
    pub top5: f64,
    /// The inverse strength that was chosen.
    pub inverse_strength: f64,
}

/// Chooses the strength that is best on a held-out fifth of the training rows (of equally good ones the first), fits
/// all training rows with it, and scores the test rows. Rows without a class are left out; a class that is not in
/// training is always wrong.
///
/// `None` where either set has no row with a class, widths differ, a training feature is not finite, or
/// `inverse_strengths` is empty or has a value that is not above 0.
pub fn linear_probe(
    train: &FeatureSet,
    test: &FeatureSet,
    config: &ProbeConfig,
) -> Option<ProbeScore> {
    let labelled: Vec<usize> = (0..train.len())
        .filter(|&row| train.labels[row].is_some())
        .collect();
    let train = rows_of(train, &labelled);
    let split = stratified_split(&train.labels, 0.2, config.seed);
    let (kept, held_out) = (
        rows_of(&train, &split.kept),
        rows_of(&train, &split.held_out),
    );
    let stop = Stop {
        tolerance: config.tolerance,
        iterations: config.iterations,
    };
    let problem = Problem::new(&kept)?;
    let mut parameters = problem.zeros();
    let mut best: Option<(f64, f64)> = None;
    for &inverse_strength in &config.inverse_strengths {
        // each starts where the one before ended
        parameters = problem.solve(parameters, inverse_strength, stop)?;
        let fitted = problem.model(&parameters);
        // classes of one row each leave none to choose by
        let score = fitted.accuracy(&held_out).map_or(0.0, |[top1, _]| top1);
        if best.is_none_or(|(best, _)| score > best) {
            best = Some((score, inverse_strength));
        }
    }
    let (_, inverse_strength) = best?;
    let model = LogisticRegression::fit(
        &train,
        inverse_strength,
        config.tolerance,
        config.iterations,
    )?;
    let [top1, top5] = model.accuracy(test)?;
    Some(ProbeScore {
        top1,
        top5,
        inverse_strength,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    /// Rows around one mean a class; classes 2, 5, 8, ...
    fn clouds(rows: usize, classes: usize, noise: f64, seed: u64) -> FeatureSet {
        let mut random = Random::new(seed, 0, 0, Stream::Init);
        let labels: Vec<usize> = (0..rows).map(|row| row % classes).collect();
        let entry = |(at, noise): (usize, f64)| {
            let is_own = at % classes == labels[at / classes];
            (f64::from(u8::from(is_own)) * 10.0 + noise) as f32
        };
        FeatureSet {
            features: (0..rows * classes)
                .map(|at| entry((at, noise * random.normal())))
                .collect(),
            width: classes,
            labels: labels.iter().map(|label| Some(3 * label + 2)).collect(),
        }
    }

    #[test]
    fn separate_classes_are_told_apart() {
        let (train, mut test) = (clouds(300, 6, 1.0, 1), clouds(60, 6, 1.0, 2));
        let config = ProbeConfig::default();
        let score = linear_probe(&train, &test, &config).unwrap();
        assert_eq!((score.top1, score.top5), (1.0, 1.0));
        // a class that training lacks, and one row that is not counted
        test.labels[0] = Some(3);
        test.labels[1] = None;
        let score = linear_probe(&train, &test, &config).unwrap();
        assert!((score.top1 - 58.0 / 59.0).abs() < 1e-12, "{score:?}");
    }

    #[test]
    fn the_strength_that_generalises_is_chosen() {
        // 100 rows of 80 features, each of which tells two classes apart a little
        let mut random = Random::new(3, 0, 0, Stream::Init);
        let mut set = |rows: usize| FeatureSet {
            features: (0..rows * 80)
                .map(|at| (at / 80 % 2) as f32 * 0.5 + random.normal() as f32)
                .collect(),
            width: 80,
            labels: (0..rows).map(|row| Some(row % 2)).collect(),
        };
        let (train, test) = (set(100), set(1000));
        let score = |inverse_strengths: &[f64]| {
            let config = ProbeConfig {
                inverse_strengths: inverse_strengths.to_vec(),
                ..ProbeConfig::default()
            };
            linear_probe(&train, &test, &config).unwrap()
        };
        let chosen = score(&[1e4, 1e-3, 1e2]);
        assert_eq!(chosen.inverse_strength, 1e-3, "{chosen:?}");
        assert!(chosen.top1 > score(&[1e4]).top1 + 0.02, "{chosen:?}");
        assert_eq!(chosen, score(&[1e-3]));
    }

    #[test]
    fn what_cannot_be_fitted_has_no_score() {
        let set = clouds(30, 3, 1.0, 1);
        let mut unlabelled = set.clone();
        unlabelled.labels.fill(None);
        let config = ProbeConfig::default();
        assert_eq!(linear_probe(&unlabelled, &set, &config), None);
        assert_eq!(linear_probe(&set, &unlabelled, &config), None);
        assert_eq!(linear_probe(&set, &clouds(30, 4, 1.0, 1), &config), None);
        for inverse_strengths in [vec![], vec![1.0, 0.0], vec![f64::NAN]] {
            let config = ProbeConfig {
                inverse_strengths,
                ..ProbeConfig::default()
            };
            assert_eq!(linear_probe(&set, &set, &config), None);
        }
        let mut broken = set.clone();
        broken.features[0] = f32::NAN;
        assert_eq!(linear_probe(&broken, &set, &config), None);
    }
}
