//! The classifier of a model file, on the host: one linear layer on the feature.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::finite::check_finite;
use crate::files::model::card::ModelCard;
use crate::files::state_dict::NamedTensor;
use crate::files::weights::read_weights;

/// timm's names of the layer.
pub(super) const HEAD: [&str; 2] = ["head.weight", "head.bias"];

/// A linear layer from a feature to one logit a class, and the names of the classes.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearClassifier {
    classes: Vec<String>,
    /// `[K, D]`, row-major.
    weight: Vec<f32>,
    /// `[K]`.
    bias: Vec<f32>,
}

impl LinearClassifier {
    /// The classifier of the file at `path` whose card is `card`.
    ///
    /// # Errors
    /// [`Error::Weights`] where it has none, one that does not fit the names of its classes, or one with NaN; [`Error::Io`].
    pub fn read(path: &Path, card: Option<&ModelCard>) -> Result<Self> {
        let mut tensors = if card.is_some_and(|card| card.classes.is_some()) {
            read_weights(path)?
        } else {
            BTreeMap::new()
        };
        take_classifier(path, &mut tensors, card)
    }

    /// Its layer under timm's names, which a backbone's weights lack.
    pub fn tensors(self) -> [(&'static str, NamedTensor); 2] {
        let [weight, bias] = HEAD;
        let classes = self.classes.len();
        let width = self.weight.len() / classes.max(1);
        let weight_tensor = NamedTensor {
            shape: vec![classes, width],
            values: self.weight,
        };
        let bias_tensor = NamedTensor {
            shape: vec![classes],
            values: self.bias,
        };
        [(weight, weight_tensor), (bias, bias_tensor)]
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The logit of each class from the feature that the model pools, `[D]` -> `[K]`.
    pub fn logits(&self, feature: &[f32]) -> Vec<f64> {
        let rows = self.weight.chunks_exact(feature.len().max(1));
        let logits = rows.zip(&self.bias).map(|(row, bias)| {
            let products = row.iter().zip(feature);
            let sum: f64 = products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            sum + f64::from(*bias)
        });
        logits.collect()
    }
}

/// Probabilities of classes from their logits, `[K]` -> `[K]`.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// Takes the classifier of the card out of the tensors of the file at `path`.
///
/// # Errors
/// As [`LinearClassifier::read`].
pub(super) fn take_classifier(
    path: &Path,
    tensors: &mut BTreeMap<String, NamedTensor>,
    card: Option<&ModelCard>,
) -> Result<LinearClassifier> {
    let refused = |reason: String| Error::Weights {
        path: path.to_path_buf(),
        reason,
    };
    let named = card.and_then(|card| Some((card.classes.clone()?, card)));
    let (classes, card) = named.ok_or_else(|| {
        let reason = "is not a classifier: it names no classes; `ibot finetune` writes classifiers";
        refused(reason.into())
    })?;
    let shapes = [
        vec![classes.len(), card.architecture.embed_dim],
        vec![classes.len()],
    ];
    check_finite(
        path,
        tensors
            .iter()
            .filter(|(key, _)| HEAD.contains(&key.as_str())),
    )?;
    let mut take = |name: &str, expected: Vec<usize>| match tensors.remove(name) {
        Some(NamedTensor { shape, values }) if shape == expected => Ok(values),
        Some(found) => Err(refused(format!(
            "{name} is {:?}, but its {} classes need {expected:?}",
            found.shape,
            classes.len()
        ))),
        None => Err(refused(format!(
            "names {} classes but has no {name}",
            classes.len()
        ))),
    };
    let [of_weight, of_bias] = shapes;
    Ok(LinearClassifier {
        weight: take(HEAD[0], of_weight)?,
        bias: take(HEAD[1], of_bias)?,
        classes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_of_the_logits() {
        let classifier = LinearClassifier {
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            weight: vec![1.0, 0.0, 0.0, 2.0, -1.0, 1.0],
            bias: vec![0.0, 1000.0, 1000.0],
        };
        // logits 3, 1004, 999: far beyond what exp can hold
        let found = softmax(&classifier.logits(&[3.0, 2.0]));
        let odds = (999.0_f64 - 1004.0).exp();
        for (found, expected) in found
            .iter()
            .zip([0.0, 1.0 / (1.0 + odds), odds / (1.0 + odds)])
        {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }
}
