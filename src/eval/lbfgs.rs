//! L-BFGS: the minimum of a smooth function from its values and gradients.

use std::collections::VecDeque;

use nalgebra::DVectorView;

/// Steps that are remembered.
const MEMORY: usize = 10;

/// When to stop.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    /// Where no entry of the gradient is larger.
    pub tolerance: f64,
    /// After this many steps.
    pub iterations: usize,
}

/// A step, the change of the gradient along it, and one over their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// Minimizes from `start`; `function` gives value and gradient.
///
/// Source: Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5, with a line search that halves or
/// doubles until the weak Wolfe conditions hold (Lewis and Overton, 2013, algorithm 2.6).
pub(super) fn minimize(
    start: Vec<f64>,
    stop: Stop,
    function: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Vec<f64> {
    let mut point = start;
    let (mut value, mut gradient) = function(&point);
    let mut memory: VecDeque<Pair> = VecDeque::new();
    for _ in 0..stop.iterations {
        if gradient.iter().all(|entry| entry.abs() <= stop.tolerance) {
            break;
        }
        let mut direction = newton_direction(&gradient, &memory);
        if memory.is_empty() {
            // a first step of length 1 or less
            let scale = 1.0 / dot(&gradient, &gradient).sqrt().max(1.0);
            direction.iter_mut().for_each(|entry| *entry *= scale);
        }
        let slope = dot(&direction, &gradient);
        let Some(next) = line_search(&point, value, slope, &direction, &function) else {
            break;
        };
        let step = difference(&next.point, &point);
        let change = difference(&next.gradient, &gradient);
        let product = dot(&step, &change);
        if product > 0.0 {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            let inverse = 1.0 / product;
            memory.push_back(Pair {
                step,
                change,
                inverse,
            });
        }
        (point, value, gradient) = (next.point, next.value, next.gradient);
    }
    point
}

/// Minus the gradient times the inverse Hessian that the remembered steps suggest.
fn newton_direction(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|entry| -entry).collect();
    let mut factors = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let factor = pair.inverse * dot(&pair.step, &direction);
        add_scaled(&mut direction, -factor, &pair.change);
        factors.push(factor);
    }
    if let Some(pair) = memory.back() {
        let scale = 1.0 / (pair.inverse * dot(&pair.change, &pair.change));
        direction.iter_mut().for_each(|entry| *entry *= scale);
    }
    for (pair, factor) in memory.iter().zip(factors.into_iter().rev()) {
        let back = pair.inverse * dot(&pair.change, &direction);
        add_scaled(&mut direction, factor - back, &pair.step);
    }
    direction
}

struct Evaluated {
    point: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// `None` where 50 trials do not suffice: the value no longer changes.
fn line_search(
    point: &[f64],
    value: f64,
    slope: f64,
    direction: &[f64],
    function: impl Fn(&[f64]) -> (f64, Vec<f64>),
) -> Option<Evaluated> {
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
    for _ in 0..50 {
        let mut next = point.to_vec();
        add_scaled(&mut next, length, direction);
        let (next_value, gradient) = function(&next);
        // near the minimum the decrease is smaller than the rounding of the value
        let bound = value + 1e-4 * length * slope + 1e-15 * value.abs();
        if next_value.is_nan() || next_value > bound {
            high = length;
        } else if dot(&gradient, direction) < 0.9 * slope {
            low = length;
        } else {
            return Some(Evaluated {
                point: next,
                value: next_value,
                gradient,
            });
        }
        length = if high.is_finite() {
            (low + high) / 2.0
        } else {
            2.0 * low
        };
    }
    None
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Scalar product.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let [a, b] = [a, b].map(|slice| DVectorView::from_slice(slice, slice.len()));
    a.dot(&b)
}

/// `target += factor * other`.
fn add_scaled(target: &mut [f64], factor: f64, other: &[f64]) {
    for (target, other) in target.iter_mut().zip(other) {
        *target += factor * other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Stop = Stop {
        tolerance: 1e-9,
        iterations: 2000,
    };

    #[test]
    fn rosenbrocks_valley_ends_at_one() {
        let function = |x: &[f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            let gradient = vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b];
            (a * a + 100.0 * b * b, gradient)
        };
        let found = minimize(vec![-1.2, 1.0], STOP, function);
        assert!(
            (found[0] - 1.0).abs() < 1e-8 && (found[1] - 1.0).abs() < 1e-8,
            "{found:?}"
        );
    }

    #[test]
    fn badly_scaled_bowls_are_solved() {
        let scales: Vec<f64> = (0..30).map(|i| 10f64.powf(f64::from(i) / 7.0)).collect();
        let function = |x: &[f64]| {
            let gradient: Vec<f64> = x.iter().zip(&scales).map(|(x, s)| s * (x - 2.0)).collect();
            let value = x
                .iter()
                .zip(&scales)
                .map(|(x, s)| s * (x - 2.0).powi(2) / 2.0)
                .sum();
            (value, gradient)
        };
        let found = minimize(vec![0.0; 30], STOP, function);
        assert!(found.iter().all(|x| (x - 2.0).abs() < 1e-8), "{found:?}");
    }
}
