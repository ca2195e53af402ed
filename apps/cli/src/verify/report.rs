//! What was found out about a device, in text and as JSON.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::compare::TensorResult;
use ibot::device::AdapterSummary;
use ibot::error::{Error, Result};
use ibot::kernels::KernelChoice;
use ibot::kernels::wgsl::Launched;
use ibot::precision::Precision;
use ibot::unfinished::write_whole;

/// How one check ended.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    /// What ran.
    pub name: &'static str,
    /// Whether each tensor is within its bar.
    pub passed: bool,
    /// The tensor that comes nearest to its bar, or is farthest above it; none where the device failed or a number is not
    /// finite.
    pub worst: Option<String>,
    /// That tensor's largest distance from the CPU's numbers, over the largest of these.
    pub error: Option<f64>,
    /// What its error may be.
    pub bar: Option<f64>,
    /// Numbers that were compared.
    pub numbers: usize,
    /// Seconds on the device, the first compilation of its kernels included.
    pub seconds: f64,
    /// What is wrong, if anything is.
    pub reason: Option<String>,
    /// Files of `shaders/` whose kernels ran; where there are none, the check ran burn's kernels alone.
    pub kernels: Vec<&'static str>,
    /// All tensors, in order.
    pub tensors: Vec<TensorResult>,
}

impl CheckResult {
    pub(super) fn new(
        name: &'static str,
        compared: Result<Vec<TensorResult>>,
        seconds: f64,
        kernels: &[Launched],
    ) -> Self {
        let (tensors, failure) = match compared {
            Ok(tensors) => (tensors, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut names: Vec<_> = kernels.iter().map(|launched| launched.name).collect();
        names.dedup(); // one with other lanes too
        let worst = tensors
            .iter()
            .max_by(|a, b| a.badness().total_cmp(&b.badness()));
        Self {
            name,
            passed: !tensors.is_empty() && tensors.iter().all(|tensor| tensor.passed),
            worst: worst.map(|worst| worst.name.clone()),
            error: worst.map(|worst| worst.error),
            bar: worst.map(|worst| worst.bar),
            numbers: tensors.iter().map(|tensor| tensor.numbers).sum(),
            seconds,
            reason: failure.or_else(|| worst.and_then(TensorResult::reason)),
            kernels: names,
            tensors,
        }
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        let shown = |number: Option<f64>, digits: usize| match number {
            None => "-".to_owned(),
            Some(0.0) => "0".to_owned(),
            Some(number) => format!("{number:.digits$e}"),
        };
        write!(
            f,
            "{verdict}  {:<42} error {:>7}  bar {:>4}  {:>8} numbers  {:>6.2} s  {}",
            self.name,
            shown(self.error, 1),
            shown(self.bar, 0),
            self.numbers,
            self.seconds,
            self.worst.as_deref().unwrap_or_default(),
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
    /// The operating system and the processor's kind, as Rust names them.
    pub system: String,
    /// The device, in words.
    pub device: String,
    /// Number format of matrix products and tokens, on it and on the CPU.
    pub precision: Precision,
    /// The backend whose numbers count as right.
    pub reference: &'static str,
    /// The adapter with its driver and limits; none for a CPU backend.
    pub adapter: Option<AdapterSummary>,
    /// Lanes of its smallest and its largest subgroup, as burn takes them; none for a CPU backend.
    pub subgroups: Option<[u32; 2]>,
    /// Whether the WGSL kernels ran, or the tensor operations of `IBOT_KERNELS=reference`.
    pub kernels: Option<KernelChoice>,
    /// The folder of `IBOT_SHADERS`, if shaders came from there.
    pub shaders: Option<String>,
    /// Which checks ran, where not all did.
    pub only: Option<String>,
    /// The checks, in order.
    pub checks: Vec<CheckResult>,
    /// This crate's kernels that ran, by name and lanes.
    pub launched: Vec<Launched>,
    /// How often the device was opened anew after a fault.
    pub reopened: usize,
    /// Whether all checks passed.
    pub passed: bool,
    /// Seconds of the whole.
    pub seconds: f64,
}

impl VerifyReport {
    /// Whether a file is such a report.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_one(path: &Path) -> Result<bool> {
        let text = std::fs::read(path).map_err(Error::io(path))?;
        let json: Value = serde_json::from_slice(&text).unwrap_or_default();
        Ok(["ibot", "checks", "kernels"]
            .iter()
            .all(|key| json.get(key).is_some()))
    }

    /// Writes it as JSON, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{:#}\n", serde_json::json!(self));
        write_whole(path, text.as_bytes())
    }

    /// Which kernels ran, a line each; and which checks ran none of this crate's. Nothing for a CPU.
    #[must_use]
    pub fn kernels_that_ran(&self) -> String {
        let Some([smallest, largest]) = self.subgroups else {
            return String::new();
        };
        let mut lines = vec![format!(
            "kernels of this crate that ran (subgroups here have {smallest} to {largest} lanes):"
        )];
        lines.extend(self.launched.iter().map(|kernel| {
            format!(
                "  {:<36} {:>4} lanes  {:>5} launches of up to {} workgroups",
                kernel.name, kernel.lanes, kernel.launches, kernel.max_workgroups
            )
        }));
        let checks = self.checks.iter();
        let burns: Vec<&str> = checks
            .filter(|check| check.kernels.is_empty())
            .map(|check| check.name)
            .collect();
        if !burns.is_empty() {
            lines.push(format!("burn's kernels alone ran: {}", burns.join("; ")));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, error: f64, bar: f64) -> TensorResult {
        TensorResult {
            name: name.to_owned(),
            error,
            bar,
            passed: error <= bar,
            numbers: 10,
            worst_at: 3,
            found: 1.0,
            expected: 2.0,
        }
    }

    #[test]
    fn the_tensor_nearest_to_its_bar_is_named() {
        let tensors = vec![tensor("result", 5e-5, 1e-3), tensor("weight", 2e-5, 1e-4)];
        let result = CheckResult::new("product", Ok(tensors), 1.0, &[]);
        assert!(result.passed && result.numbers == 20 && result.reason.is_none());
        assert_eq!(result.worst.as_deref(), Some("weight"));
        assert_eq!((result.error, result.bar), (Some(2e-5), Some(1e-4)));
        assert!(result.to_string().starts_with("pass  product"), "{result}");
    }

    #[test]
    fn one_tensor_above_its_bar_fails_the_check() {
        let tensors = vec![tensor("result", 9e-4, 1e-3), tensor("bias", 1e-9, 0.0)];
        let result = CheckResult::new("product", Ok(tensors), 1.0, &[]);
        assert!(!result.passed);
        let text = result.to_string();
        assert!(
            text.starts_with("FAIL") && text.contains("bias: number 3 of 10"),
            "{text}"
        );
    }

    #[test]
    fn a_fault_of_the_device_is_its_reason() {
        let fault = Err(Error::Device("shader does not compile".into()));
        let result = CheckResult::new("product", fault, 1.0, &[]);
        assert!(!result.passed && result.error.is_none());
        let text = result.to_string();
        assert!(text.contains("shader does not compile"), "{text}");
    }
}
