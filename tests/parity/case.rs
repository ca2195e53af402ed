//! One recorded case, and how far results are from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use ibot::files::{NamedTensor, read_safetensors};
use safetensors::SafeTensors;
use serde_json::Value;

/// Bar of forward values, relative to the largest entry of their tensor.
pub const FORWARD_BAR: f64 = 1e-4;
/// Bar of gradients and trained weights, relative to the largest entry of their tensor.
pub const GRADIENT_BAR: f64 = 1e-3;

/// Tensors and configuration of one file.
pub struct Case {
    pub path: PathBuf,
    pub tensors: BTreeMap<String, NamedTensor>,
    pub config: Value,
}

impl Case {
    pub fn read(path: &Path) -> Result<Self, String> {
        let tensors = read_safetensors(path).map_err(|error| error.to_string())?;
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| error.to_string())?;
        let config = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get("config"))
            .ok_or("no `config` in the metadata")?;
        let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        Ok(Self {
            path: path.to_path_buf(),
            tensors,
            config,
        })
    }

    pub fn kind(&self) -> &str {
        self.config["kind"].as_str().unwrap_or("")
    }

    pub fn number(&self, key: &str) -> Result<f64, String> {
        self.config[key]
            .as_f64()
            .ok_or_else(|| format!("no number {key:?} in the config"))
    }

    pub fn count(&self, key: &str) -> Result<usize, String> {
        self.number(key).map(|number| number as usize)
    }

    pub fn named(&self, name: &str) -> Result<&NamedTensor, String> {
        self.tensors
            .get(name)
            .ok_or_else(|| format!("no tensor {name:?}"))
    }

    pub fn tensor<B: Backend, const D: usize>(
        &self,
        name: &str,
        device: &B::Device,
    ) -> Result<Tensor<B, D>, String> {
        let named = self.named(name)?;
        if named.shape.len() != D {
            return Err(format!("{name} has shape {:?}, not rank {D}", named.shape));
        }
        let data = TensorData::new(named.values.clone(), named.shape.clone());
        Ok(Tensor::from_data(data, device))
    }

    /// All tensors under `prefix`, without it.
    pub fn under(&self, prefix: &str) -> BTreeMap<String, NamedTensor> {
        let found = self.tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))
        });
        found.collect()
    }
}

/// Largest relative errors of a case, one entry a compared tensor.
#[derive(Default)]
pub struct Comparison(Vec<(String, f64, f64)>);

impl Comparison {
    pub fn forward(&mut self, case: &Case, name: &str, found: Vec<f32>) -> Result<(), String> {
        let expected = case.named(name)?.values.clone();
        self.values(name, &expected, &found, FORWARD_BAR)
    }

    pub fn gradient(&mut self, case: &Case, name: &str, found: Vec<f32>) -> Result<(), String> {
        let expected = case.named(name)?.values.clone();
        self.values(name, &expected, &found, GRADIENT_BAR)
    }

    pub fn values(
        &mut self,
        name: &str,
        expected: &[f32],
        found: &[f32],
        bar: f64,
    ) -> Result<(), String> {
        if expected.len() != found.len() {
            return Err(format!(
                "{name}: {} values, not {}",
                found.len(),
                expected.len()
            ));
        }
        let largest = expected
            .iter()
            .fold(0.0f64, |max, x| max.max(f64::from(x.abs())));
        let scale = if largest > 0.0 { largest } else { 1.0 };
        let error = expected.iter().zip(found).fold(0.0f64, |max, (x, y)| {
            let distance = (f64::from(*x) - f64::from(*y)).abs() / scale;
            // `max` drops NaN: a value that is not finite is infinitely far
            max.max(if distance.is_finite() {
                distance
            } else {
                f64::INFINITY
            })
        });
        self.0.push((name.to_string(), error, bar));
        Ok(())
    }

    /// With another comparison, whose names begin with `prefix`.
    pub fn and(mut self, prefix: &str, other: Self) -> Self {
        let others = other.0.into_iter();
        self.0
            .extend(others.map(|(name, error, bar)| (format!("{prefix}{name}"), error, bar)));
        self
    }

    pub fn failures(&self) -> impl Iterator<Item = String> {
        let failing = self.0.iter().filter(|(_, error, bar)| error > bar);
        failing
            .map(|(name, error, bar)| format!("{name}: relative error {error:.2e} above {bar:.0e}"))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, bar) in [("forward", FORWARD_BAR), ("gradients", GRADIENT_BAR)] {
            let of_kind = self.0.iter().filter(|entry| entry.2 == bar);
            if let Some((name, error, _)) = of_kind.max_by(|a, b| a.1.total_cmp(&b.1)) {
                write!(f, "{what} {error:.1e} of {bar:.0e} ({name})  ")?;
            }
        }
        write!(f, "{} tensors", self.0.len())
    }
}

/// Entries of a tensor on the host.
pub fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
