//! Certifies a device: every operation, a training step and ten steps on it and on the CPU, compared.
//!
//! - `operations`: what is run of the kernels; `steps`: what is run of the method
//!
//! A check is one function, generic over the backend, that returns numbers; it runs on both backends with the same
//! inputs, drawn on the host.

mod operations;
mod steps;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use burn::tensor::backend::BackendTypes;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_ndarray::NdArray;
use serde::Serialize;

use crate::device::{AdapterSummary, DeviceGuard, Selected};
use crate::error::{Error, Result};
use crate::kernels::{Gpu, KernelChoice, TrainBackend, wgsl};

/// One thing to run on a backend.
struct Check<B: TrainBackend> {
    name: &'static str,
    bar: f64,
    run: Run<B>,
}

/// Numbers that the backend computes.
type Run<B> = fn(&<B as BackendTypes>::Device) -> Result<Vec<f32>>;

/// How one check ended.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    /// What ran.
    pub name: &'static str,
    /// Largest distance from the CPU's numbers, over the largest of them; none where the device failed or a number is
    /// not finite.
    pub error: Option<f64>,
    /// What the error may be.
    pub bar: f64,
    /// Whether it is within the bar.
    pub passed: bool,
    /// Numbers that were compared.
    pub numbers: usize,
    /// Seconds on the device, the first compilation of its kernels included.
    pub seconds: f64,
    /// Why there is no error, where there is none.
    pub reason: Option<String>,
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        let error = self
            .error
            .map_or("-".to_owned(), |error| format!("{error:.1e}"));
        write!(
            f,
            "{verdict}  {:<36} error {error:>8}  bar {:>7.0e}  {:>6} numbers  {:>6.2} s",
            self.name, self.bar, self.numbers, self.seconds
        )?;
        match &self.reason {
            Some(reason) => write!(f, "\n      {reason}"),
            None => Ok(()),
        }
    }
}

/// Everything that was found out about a device.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// This crate's version.
    pub ibot: &'static str,
    /// The device, in words.
    pub device: String,
    /// The backend whose numbers count as right.
    pub reference: &'static str,
    /// The adapter with its driver and limits; none for a CPU backend.
    pub adapter: Option<AdapterSummary>,
    /// Whether the WGSL kernels ran, or the tensor operations of `IBOT_KERNELS=reference`.
    pub kernels: Option<KernelChoice>,
    /// The folder of `IBOT_SHADERS`, if shaders came from there.
    pub shaders: Option<String>,
    /// All checks, in order.
    pub checks: Vec<CheckResult>,
    /// Whether all of them passed.
    pub passed: bool,
    /// Seconds of the whole.
    pub seconds: f64,
}

impl VerifyReport {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{:#}\n", serde_json::json!(self));
        std::fs::write(path, text).map_err(Error::io(path))
    }
}

/// Runs all checks on the selected device and on the CPU (Flex; NdArray where Flex is selected), `report`ing each.
///
/// A device that fails in the middle fails that check and all that follow, and is no error.
///
/// # Errors
/// The device cannot be opened.
pub fn verify(selected: &Selected, report: &mut dyn FnMut(&CheckResult)) -> Result<VerifyReport> {
    let start = Instant::now();
    let guard = DeviceGuard::install(selected)?;
    let (adapter, checks) = match selected {
        Selected::Wgpu { device, adapter } => {
            let checks = compare::<Autodiff<Gpu>, Autodiff<Flex>>(device, &guard, report);
            (Some(adapter.clone()), checks)
        }
        Selected::Flex => {
            let device = Default::default();
            let checks = compare::<Autodiff<Flex>, Autodiff<NdArray<f32>>>(&device, &guard, report);
            (None, checks)
        }
        Selected::NdArray => {
            let device = Default::default();
            let checks = compare::<Autodiff<NdArray<f32>>, Autodiff<Flex>>(&device, &guard, report);
            (None, checks)
        }
    };
    Ok(VerifyReport {
        ibot: env!("CARGO_PKG_VERSION"),
        device: selected.to_string(),
        reference: match selected {
            Selected::Flex => "NdArray on the CPU",
            _ => "Flex on the CPU",
        },
        kernels: adapter.is_some().then(KernelChoice::active),
        shaders: wgsl::shader_folder().map(|folder| folder.display().to_string()),
        adapter,
        passed: checks.iter().all(|check| check.passed),
        checks,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn all_checks<B: TrainBackend>() -> Vec<Check<B>> {
    let mut all = operations::checks();
    all.extend(steps::checks());
    all
}

fn compare<B: TrainBackend, R: TrainBackend>(
    device: &B::Device,
    guard: &DeviceGuard,
    report: &mut dyn FnMut(&CheckResult),
) -> Vec<CheckResult> {
    let pairs = all_checks::<B>().into_iter().zip(all_checks::<R>());
    let results = pairs.map(|(check, reference)| {
        let expected = (reference.run)(&Default::default());
        let start = Instant::now();
        let found = guard.read::<B, _>(device, || (check.run)(device));
        let seconds = start.elapsed().as_secs_f64();
        let error = expected.and_then(|expected| {
            let found = found??;
            Ok((relative_error(&found, &expected)?, found.len()))
        });
        let result = CheckResult {
            name: check.name,
            error: error.as_ref().ok().map(|(error, _)| *error),
            bar: check.bar,
            passed: error.as_ref().is_ok_and(|(error, _)| *error <= check.bar),
            numbers: error.as_ref().map_or(0, |(_, numbers)| *numbers),
            seconds,
            reason: error.err().map(|error| error.to_string()),
        };
        report(&result);
        result
    });
    results.collect()
}

/// Largest distance, over the largest expected number. A failed launch reads as zeros, so that nothing may be expected
/// to be all zeros.
fn relative_error(found: &[f32], expected: &[f32]) -> Result<f64> {
    let wrong = |reason: String| Err(Error::Device(reason));
    if found.len() != expected.len() {
        return wrong(format!("{} numbers, not {}", found.len(), expected.len()));
    }
    if let Some(at) = found.iter().position(|x| !x.is_finite()) {
        return wrong(format!("number {at} is {}", found[at]));
    }
    let largest = expected.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    if !(largest > 0.0 && largest.is_finite()) {
        return wrong(format!("the largest number of the CPU is {largest}"));
    }
    let distances = found.iter().zip(expected);
    let distances = distances.map(|(f, e)| (f64::from(*f) - f64::from(*e)).abs());
    Ok(distances.fold(0.0, f64::max) / f64::from(largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_nothing_may_be_zero() {
        let error = relative_error(&[1.0, 2.0], &[1.0, 2.5]).unwrap();
        assert!((error - 0.2).abs() < 1e-6);
        for (found, expected) in [
            (vec![0.0; 2], vec![0.0; 2]),
            (vec![1.0], vec![1.0, 2.0]),
            (vec![f32::NAN, 1.0], vec![1.0, 1.0]),
            (vec![], vec![]),
        ] {
            assert!(relative_error(&found, &expected).is_err());
        }
    }
}
