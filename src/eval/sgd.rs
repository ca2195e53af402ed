//! Stochastic gradient descent on a linear classifier, as DINO trains its probe.

use std::f64::consts::PI;

use crate::eval::logistic::Problem;
use crate::random::{Random, Stream};

const MOMENTUM: f64 = 0.9;

/// How the parameters descend.
#[derive(Clone, Copy)]
pub(super) struct Descent {
    /// At the first step; falls to 0 along half a cosine.
    pub learning_rate: f64,
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows a step, at most.
    pub batch_size: usize,
    /// Draws the order of the rows.
    pub seed: u64,
}

impl Descent {
    /// Parameters `[K, D + 1]` after all epochs, from zeros.
    ///
    /// Source: DINO's eval_linear.py: momentum 0.9, no weight decay. Differs from it: features are standardized, and the
    /// learning rate falls at each step instead of each epoch and is not scaled by the batch.
    pub fn run(self, problem: &Problem) -> Vec<f64> {
        let mut order: Vec<usize> = (0..problem.len()).collect();
        let batch_size = self.batch_size.clamp(1, order.len().max(1));
        let steps = self.epochs * order.len().div_ceil(batch_size);
        let mut parameters = problem.zeros();
        let (mut velocity, mut step) = (problem.zeros(), 0);
        for epoch in 0..self.epochs {
            let mut random = Random::new(self.seed, epoch as u64, 0, Stream::Shuffle);
            random.shuffle(&mut order);
            for places in order.chunks(batch_size) {
                let progress = f64::from(step) / steps as f64;
                let rate = self.learning_rate * 0.5 * (1.0 + (PI * progress).cos());
                let (_, gradient) = problem.batch(places).objective(&parameters, 0.0);
                let moved = parameters.iter_mut().zip(&mut velocity).zip(&gradient);
                for ((parameter, velocity), gradient) in moved {
                    *velocity = MOMENTUM * *velocity + gradient;
                    *parameter -= rate * *velocity;
                }
                step += 1;
            }
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::FeatureSet;
    use crate::eval::lbfgs::Stop;

    /// Three classes around their means; a row in `apart` of the distance between those is noise.
    fn problem(noise: f64) -> Problem {
        let mut random = Random::new(5, 0, 0, Stream::Init);
        let entry = |at: usize| f64::from(u8::from(at % 3 == at / 3 % 3));
        let features = (0..300 * 3).map(|at| (entry(at) + noise * random.normal()) as f32);
        let train = FeatureSet {
            features: features.collect(),
            width: 3,
            labels: (0..300).map(|row| Some(row % 3)).collect(),
        };
        Problem::new(&train).unwrap()
    }

    const DESCENT: Descent = Descent {
        learning_rate: 0.1,
        epochs: 100,
        batch_size: 64,
        seed: 0,
    };

    #[test]
    fn it_ends_at_the_minimum_that_newton_finds() {
        let problem = problem(0.5);
        let stop = Stop {
            tolerance: 1e-9,
            iterations: 1000,
        };
        let minimum = problem.solve(problem.zeros(), 1e12, stop).unwrap();
        let value = |parameters: &[f64]| problem.objective(parameters, 0.0).0;
        let (found, least) = (value(&DESCENT.run(&problem)), value(&minimum));
        // classes overlap: a third of the entropy of a guess is left
        assert!((0.2..0.6).contains(&least), "{least}");
        assert!(found >= least && found < least * 1.002, "{found} {least}");
        let slow = Descent {
            learning_rate: 1e-4,
            ..DESCENT
        };
        assert!(value(&slow.run(&problem)) > least * 1.2);
    }

    #[test]
    fn batches_are_the_whole_in_parts() {
        let problem = problem(0.5);
        let mut random = Random::new(6, 0, 0, Stream::Init);
        let at: Vec<f64> = (0..12).map(|_| random.normal()).collect();
        let (_, whole) = problem.objective(&at, 0.0);
        let places: Vec<usize> = (0..300).rev().collect();
        let mut mean = vec![0.0; whole.len()];
        for part in places.chunks(100) {
            let (_, gradient) = problem.batch(part).objective(&at, 0.0);
            mean.iter_mut()
                .zip(gradient)
                .for_each(|(mean, entry)| *mean += entry / 3.0);
        }
        let distance = whole.iter().zip(&mean).map(|(a, b)| (a - b).abs());
        assert!(distance.fold(0.0, f64::max) < 1e-12);
    }
}
