//! Tensors of two backends, compared one by one.

use ibot::burn::tensor::Tensor;
use serde::Serialize;

use ibot::device::synchronize;
use ibot::error::{Error, Result};
use ibot::kernels::IbotBackend;
use ibot::precision::Precision;

/// One tensor, as a backend computed it.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub name: String,
    pub values: Vec<f32>,
    /// What its numbers may differ by, over the largest of them; 0 where they are whole numbers that f32 sums exactly, in
    /// any order.
    pub bar: f64,
}

impl Measured {
    pub fn new(name: impl Into<String>, values: Vec<f32>, bar: f64) -> Self {
        Self {
            name: name.into(),
            values,
            bar,
        }
    }

    pub fn of<B: IbotBackend, const D: usize>(
        name: impl Into<String>,
        tensor: Tensor<B, D>,
        bar: f64,
    ) -> Self {
        Self::new(name, numbers(tensor), bar)
    }
}

/// The tensor's numbers, brought to the host; a device that does not answer is waited for with a deadline.
pub(super) fn numbers<B: IbotBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    synchronize(&tensor.device());
    let data = tensor.into_data();
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        Err(_) => data.iter::<f32>().collect(),
    }
}

/// How one tensor compares with the CPU's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorResult {
    /// Which of the check's tensors.
    pub name: String,
    /// Largest distance from the CPU's numbers, over the largest of these.
    pub error: f64,
    /// What the error may be.
    pub bar: f64,
    /// Whether it is within the bar.
    pub passed: bool,
    /// Numbers that were compared.
    pub numbers: usize,
    /// Where the distance is largest, counted from 0.
    pub worst_at: usize,
    /// What the device has there.
    pub found: f32,
    /// What the CPU has there.
    pub expected: f32,
}

impl TensorResult {
    /// Its error in bars; infinite where there must be none and is one.
    pub(super) fn badness(&self) -> f64 {
        if self.error > 0.0 {
            self.error / self.bar
        } else {
            0.0
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn reason(&self) -> Option<String> {
        let Self { name, numbers, .. } = self;
        let (at, found, expected) = (self.worst_at, self.found, self.expected);
        (!self.passed).then(|| {
            format!("{name}: number {at} of {numbers} is {found:e}, and {expected:e} on the CPU")
        })
    }
}

/// Each tensor's largest distance. A failed launch reads as zeros, so that no tensor may be expected to be all zeros.
///
/// # Errors
/// The tensors are not the same ones, or a number is not finite.
pub(super) fn compare(
    found: &[Measured],
    expected: &[Measured],
    precision: Precision,
) -> Result<Vec<TensorResult>> {
    if found.len() != expected.len() {
        let counts = (found.len(), expected.len());
        return wrong(format!("{} tensors, not {}", counts.0, counts.1));
    }
    let pairs = found.iter().zip(expected);
    pairs
        .map(|(found, expected)| compare_tensor(found, expected, least_bar(precision)))
        .collect()
}

/// What numbers may differ by in a precision: a sum that ends near the middle between two halves is rounded to the one here, and
/// to the other there, and what is computed of it differs by as much.
fn least_bar(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 0.0,
        Precision::F16 => 4e-3,
        Precision::Bf16 => 3e-2,
    }
}

fn wrong<T>(reason: String) -> Result<T> {
    Err(Error::Device(reason))
}

fn compare_tensor(found: &Measured, expected: &Measured, least_bar: f64) -> Result<TensorResult> {
    let bar = found.bar.max(least_bar);
    let name = &found.name;
    let (values, references) = (&found.values, &expected.values);
    if values.len() != references.len() {
        let counts = (values.len(), references.len());
        return wrong(format!("{name}: {} numbers, not {}", counts.0, counts.1));
    }
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        let broken = values.iter().filter(|x| !x.is_finite()).count();
        return wrong(format!(
            "{name}: {broken} of {} numbers are not finite, the first is number {at}: {}, and {:e} on the CPU",
            values.len(),
            values[at],
            references[at],
        ));
    }
    let largest = references.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    if !(largest > 0.0 && largest.is_finite()) {
        return wrong(format!(
            "{name}: the largest number of the CPU is {largest}"
        ));
    }
    let distance = |at: usize| (f64::from(values[at]) - f64::from(references[at])).abs();
    let worst = (0..values.len()).max_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let worst_at = worst.unwrap_or(0);
    let error = distance(worst_at) / f64::from(largest);
    Ok(TensorResult {
        name: name.clone(),
        error,
        bar,
        passed: error <= bar,
        numbers: values.len(),
        worst_at,
        found: values[worst_at],
        expected: references[worst_at],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[f32], bar: f64) -> Measured {
        Measured::new("d_x", values.to_vec(), bar)
    }

    #[test]
    fn errors_are_relative_to_the_largest_of_the_tensor() {
        let found = measured(&[1.0, 2.0, -1.0], 0.3);
        let result = compare_tensor(&found, &measured(&[1.0, 2.5, -1.0], 0.3), 0.0).unwrap();
        assert!((result.error - 0.2).abs() < 1e-6 && result.passed);
        assert_eq!((result.worst_at, result.expected), (1, 2.5));
        assert!((result.badness() - 0.2 / 0.3).abs() < 1e-6);
        assert_eq!(result.reason(), None);
    }

    #[test]
    fn a_small_tensor_is_not_hidden_by_a_large_one() {
        let found = [measured(&[1e4, 2e4], 1e-4), measured(&[1e-3, 0.0], 1e-4)];
        let expected = [measured(&[1e4, 2e4], 1e-4), measured(&[1e-3, 1e-3], 1e-4)];
        let results = compare(&found, &expected, Precision::F32).unwrap();
        assert!(results[0].passed && !results[1].passed);
        let reason = results[1].reason().unwrap();
        assert!(
            reason.starts_with("d_x: number 1 of 2 is 0e0, and 1e-3"),
            "{reason}"
        );
    }

    #[test]
    fn whole_numbers_must_be_the_same() {
        let exact = |found: f32| {
            compare_tensor(
                &measured(&[found, 7.0], 0.0),
                &measured(&[5.0, 7.0], 0.0),
                0.0,
            )
            .unwrap()
        };
        assert!(exact(5.0).passed);
        assert_eq!(exact(5.0).badness(), 0.0);
        assert!(!exact(5.000_001).passed);
        assert_eq!(exact(5.000_001).badness(), f64::INFINITY);
    }

    #[test]
    fn nothing_may_be_zero_missing_or_infinite() {
        for (found, expected) in [
            (vec![0.0; 2], vec![0.0; 2]),
            (vec![1.0], vec![1.0, 2.0]),
            (vec![f32::NAN, 1.0], vec![1.0, 1.0]),
            (vec![], vec![]),
        ] {
            let result = compare_tensor(&measured(&found, 0.1), &measured(&expected, 0.1), 0.0);
            let reason = result.unwrap_err().to_string();
            assert!(reason.contains("d_x: "), "{reason}");
        }
        let one = [measured(&[1.0], 0.1)];
        assert!(compare(&one, &[], Precision::F32).is_err());
    }
}
