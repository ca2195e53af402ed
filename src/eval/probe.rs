//! Linear probe: a linear classifier of frozen features, its penalty or learning rate chosen on held-out rows.

use crate::eval::confidence::stratified_split;
use crate::eval::features::FeatureSet;
use crate::eval::lbfgs::Stop;
use crate::eval::logistic::{Problem, rows_of};
use crate::eval::sgd::Descent;

/// How the probe is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// What fits the weights. Default L-BFGS with a tolerance of 1e-5 and at most 1000 steps.
    pub optimizer: ProbeOptimizer,
    /// Values to choose from, each above 0: inverse strengths of the L2 penalty (scikit-learn's `C`) with
    /// [`ProbeOptimizer::Lbfgs`], default 1e-4 to 1000; learning rates with [`ProbeOptimizer::Sgd`], default 1e-3 to 0.1
    /// ([`ProbeConfig::sgd`]).
    pub candidates: Vec<f64>,
    /// Seed of the rows that choose, and of the order of those that train. Default 0.
    pub seed: u64,
}

/// What finds the weights of the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProbeOptimizer {
    /// L-BFGS, to the minimum of the cross-entropy with an L2 penalty.
    Lbfgs {
        /// A fit ends where no entry of its gradient is larger.
        tolerance: f64,
        /// A fit ends after this many steps.
        iterations: usize,
    },
    /// Stochastic gradient descent on the cross-entropy alone, as DINO's linear evaluation: momentum 0.9, a learning rate
    /// that falls to 0 along half a cosine.
    Sgd {
        /// Passes over the rows.
        epochs: usize,
        /// Rows a step.
        batch_size: usize,
    },
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self::lbfgs()
    }
}

impl ProbeConfig {
    /// L-BFGS with strengths from 1e-4 to 1000, tolerance 1e-5, 1000 steps.
    pub fn lbfgs() -> Self {
        Self {
            optimizer: ProbeOptimizer::Lbfgs {
                tolerance: 1e-5,
                iterations: 1000,
            },
            candidates: vec![1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0],
            seed: 0,
        }
    }

    /// SGD with learning rates from 1e-3 to 0.1, 100 epochs in batches of 256.
    pub fn sgd() -> Self {
        Self {
            optimizer: ProbeOptimizer::Sgd {
                epochs: 100,
                batch_size: 256,
            },
            candidates: vec![1e-3, 3e-3, 1e-2, 3e-2, 0.1],
            seed: 0,
        }
    }

    /// Parameters `[K, D + 1]` for one of the candidates; `None` for one that is not above 0.
    fn fit(&self, problem: &Problem, start: Vec<f64>, candidate: f64) -> Option<Vec<f64>> {
        match self.optimizer {
            ProbeOptimizer::Lbfgs {
                tolerance,
                iterations,
            } => {
                let stop = Stop {
                    tolerance,
                    iterations,
                };
                problem.solve(start, candidate, stop)
            }
            ProbeOptimizer::Sgd { epochs, batch_size } => {
                let descent = Descent {
                    learning_rate: candidate,
                    epochs,
                    batch_size,
                    seed: self.seed,
                };
                (candidate > 0.0).then(|| descent.run(problem))
            }
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
    /// The candidate that was chosen.
    pub chosen: f64,
}

/// Chooses the candidate that is best on a held-out fifth of the training rows (of equally good ones the first), fits
/// all training rows with it, and scores the test rows. Rows without a class are left out; a class that is not in
/// training is always wrong.
///
/// `None` where either set has no row with a class, widths differ, a training feature is not finite, or
/// `candidates` is empty or has a value that is not above 0.
pub fn linear_probe(
    train: &FeatureSet,
    test: &FeatureSet,
    config: &ProbeConfig,
) -> Option<ProbeScore> {
    let labeled: Vec<usize> = (0..train.len())
        .filter(|&row| train.labels[row].is_some())
        .collect();
    let train = rows_of(train, &labeled);
    let split = stratified_split(&train.labels, 0.2, config.seed);
    let held_out = rows_of(&train, &split.held_out);
    let problem = Problem::new(&rows_of(&train, &split.kept))?;
    let mut parameters = problem.zeros();
    let mut best: Option<(f64, f64)> = None;
    for &candidate in &config.candidates {
        // the minimum under one penalty is near that under the next
        parameters = config.fit(&problem, parameters, candidate)?;
        let fitted = problem.model(&parameters);
        // classes of one row each leave none to choose by
        let score = fitted.accuracy(&held_out).map_or(0.0, |[top1, _]| top1);
        if best.is_none_or(|(best, _)| score > best) {
            best = Some((score, candidate));
        }
    }
    let (_, chosen) = best?;
    let problem = Problem::new(&train)?;
    let parameters = config.fit(&problem, problem.zeros(), chosen)?;
    let [top1, top5] = problem.model(&parameters).accuracy(test)?;
    Some(ProbeScore { top1, top5, chosen })
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
        for config in [ProbeConfig::lbfgs(), ProbeConfig::sgd()] {
            let score = linear_probe(&train, &test, &config).unwrap();
            assert_eq!((score.top1, score.top5), (1.0, 1.0), "{config:?}");
        }
        // a class that training lacks, and one row that is not counted
        test.labels[0] = Some(3);
        test.labels[1] = None;
        let score = linear_probe(&train, &test, &ProbeConfig::default()).unwrap();
        assert!((score.top1 - 58.0 / 59.0).abs() < 1e-12, "{score:?}");
    }

    #[test]
    fn the_strength_that_generalizes_is_chosen() {
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
        let score = |strengths: &[f64]| {
            let config = ProbeConfig {
                candidates: strengths.to_vec(),
                ..ProbeConfig::default()
            };
            linear_probe(&train, &test, &config).unwrap()
        };
        let chosen = score(&[1e4, 1e-3, 1e2]);
        assert_eq!(chosen.chosen, 1e-3, "{chosen:?}");
        assert!(chosen.top1 > score(&[1e4]).top1 + 0.02, "{chosen:?}");
        assert_eq!(chosen, score(&[1e-3]));
    }

    #[test]
    fn the_learning_rate_that_arrives_is_chosen() {
        let (train, test) = (clouds(300, 6, 4.0, 1), clouds(600, 6, 4.0, 2));
        let score = |learning_rates: &[f64]| {
            let config = ProbeConfig {
                candidates: learning_rates.to_vec(),
                ..ProbeConfig::sgd()
            };
            linear_probe(&train, &test, &config).unwrap()
        };
        // one that overflows is right of nothing
        let best = score(&[f64::MAX, 1e-2]);
        assert_eq!(best.chosen, 1e-2, "{best:?}");
        let newtons = linear_probe(&train, &test, &ProbeConfig::lbfgs()).unwrap();
        assert!(
            (best.top1 - newtons.top1).abs() < 0.04,
            "{best:?} {newtons:?}"
        );
        assert_eq!(score(&[f64::MAX]).top1, 0.0);
    }

    #[test]
    fn what_cannot_be_fitted_has_no_score() {
        let set = clouds(30, 3, 1.0, 1);
        let mut unlabeled = set.clone();
        unlabeled.labels.fill(None);
        let config = ProbeConfig::default();
        assert_eq!(linear_probe(&unlabeled, &set, &config), None);
        assert_eq!(linear_probe(&set, &unlabeled, &config), None);
        assert_eq!(linear_probe(&set, &clouds(30, 4, 1.0, 1), &config), None);
        for candidates in [vec![], vec![1.0, 0.0], vec![f64::NAN]] {
            for config in [ProbeConfig::lbfgs(), ProbeConfig::sgd()] {
                let candidates = candidates.clone();
                let config = ProbeConfig {
                    candidates,
                    ..config
                };
                assert_eq!(linear_probe(&set, &set, &config), None);
            }
        }
        let mut broken = set.clone();
        broken.features[0] = f32::NAN;
        assert_eq!(linear_probe(&broken, &set, &config), None);
    }
}
