//! The library's enums as values of flags: their names, and their help texts.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ibot::device::BackendChoice;
use ibot::embedding::FeatureKind;
use ibot::method::StreamingPrototypes;
use ibot::precision::Precision;
use ibot::train::{ExportFormat, OnAnomaly, OnDeviceLost, PretrainedParts};

/// Values with their names and help.
type Choices<T> = &'static [(T, &'static str, &'static str)];

pub const BACKENDS: Choices<BackendChoice> = &[
    (
        BackendChoice::Auto,
        "auto",
        "A GPU if there is one, else Flex",
    ),
    (
        BackendChoice::Wgpu,
        "wgpu",
        "GPU (or a software Vulkan driver)",
    ),
    (
        BackendChoice::Flex,
        "flex",
        "CPU, through burn-flex: the faster of the two",
    ),
    (
        BackendChoice::NdArray,
        "ndarray",
        "CPU, through burn-ndarray",
    ),
];

pub const PRECISIONS: Choices<Precision> = &[
    (Precision::F32, "f32", "f32 everywhere"),
    (
        Precision::F16,
        "f16",
        "GPU: activations and inputs of matrix multiplications in f16. CPU: only rounds as a GPU does, and is slower",
    ),
    (
        Precision::Bf16,
        "bf16",
        "CPU: matrix multiplications in bf16, as torch.autocast",
    ),
];

pub const DTYPES: Choices<Precision> = &[
    (Precision::F32, "f32", "32 bits"),
    (
        Precision::F16,
        "f16",
        "16 bits, numbers up to 65504; what is larger is refused",
    ),
    (Precision::Bf16, "bf16", "16 bits with the range of f32"),
];

pub const FEATURES: Choices<FeatureKind> = &[
    (
        FeatureKind::Cls,
        "cls",
        "The class token (or the model's pooled feature)",
    ),
    (FeatureKind::Patch, "patch", "The mean of the patch tokens"),
    (FeatureKind::Both, "both", "Both, concatenated"),
];

/// What `ibot embed` computes of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// One feature.
    Image(FeatureKind),
    /// One per patch.
    Patches,
}

pub const EMBEDDED: Choices<Embedded> = &[
    (Embedded::Image(FeatureKind::Cls), "cls", FEATURES[0].2),
    (Embedded::Image(FeatureKind::Patch), "patch", FEATURES[1].2),
    (Embedded::Image(FeatureKind::Both), "both", FEATURES[2].2),
    (
        Embedded::Patches,
        "patches",
        "Each patch token: rows x columns x width values per image",
    ),
];

pub const FORMATS: Choices<ExportFormat> = &[
    (
        ExportFormat::Timm,
        "timm",
        "One backbone under timm's names",
    ),
    (
        ExportFormat::Ibot,
        "ibot",
        "Student and teacher with heads, mask token and centers, under the names of the official iBOT or DINOv2",
    ),
    (
        ExportFormat::StablePretraining,
        "stable-pretraining",
        "Student and teacher with heads and mask token, as a state dict of stable-pretraining's iBOT",
    ),
    (
        ExportFormat::Onnx,
        "onnx",
        "One backbone, or a classifier with its head, as an ONNX model",
    ),
    (
        ExportFormat::Transformers,
        "transformers",
        "One backbone as a folder for Hugging Face's transformers",
    ),
];

pub const ON_ANOMALY: Choices<OnAnomaly> = &[
    (OnAnomaly::Warn, "warn", "Print a warning and continue"),
    (
        OnAnomaly::Stop,
        "stop",
        "Write a checkpoint and stop the run",
    ),
    (
        OnAnomaly::Rollback,
        "rollback",
        "Go back to a checkpoint from before it with half the learning rate; stop the run after three rollbacks",
    ),
];

pub const ON_DEVICE_LOST: Choices<OnDeviceLost> = &[
    (OnDeviceLost::Stop, "stop", "Stop the run with an error"),
    (
        OnDeviceLost::Cpu,
        "cpu",
        "Resume from the newest checkpoint on the CPU, with Flex",
    ),
];

pub const PRETRAINED_PARTS: Choices<PretrainedParts> = &[
    (
        PretrainedParts::Backbone,
        "backbone",
        "One backbone, for both student and teacher",
    ),
    (
        PretrainedParts::All,
        "all",
        "Student and teacher with their heads, mask token and centers",
    ),
];

pub const STREAMING: Choices<StreamingPrototypes> = &[
    (
        StreamingPrototypes::Auto,
        "auto",
        "If the logits of a loss would be large, or larger than one tensor of the device",
    ),
    (StreamingPrototypes::Always, "always", "All logits"),
    (
        StreamingPrototypes::Never,
        "never",
        "No logits: an error if one tensor cannot hold them",
    ),
];

/// A parser for one of these values. clap accepts only their names, so the fallback to the first one is never taken.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    choices: Choices<T>,
) -> impl TypedValueParser<Value = T> {
    let named =
        |(_, name, help): &(T, &'static str, &'static str)| PossibleValue::new(*name).help(*help);
    let parser = PossibleValuesParser::new(choices.iter().map(named));
    parser.map(move |text| {
        let at = choices.iter().position(|(_, name, _)| *name == text);
        choices[at.unwrap_or(0)].0
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_library() {
        for (choice, name, _) in BACKENDS {
            assert_eq!(choice.to_string(), *name);
        }
        for (choice, name, _) in PRECISIONS.iter().chain(DTYPES) {
            assert_eq!(choice.to_string(), *name);
        }
        let text = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        for (choice, name, _) in FEATURES {
            assert_eq!(text(serde_json::to_value(choice).unwrap()), *name);
        }
        for (choice, name, _) in ON_ANOMALY {
            assert_eq!(text(serde_json::to_value(choice).unwrap()), *name);
        }
        for (choice, name, _) in STREAMING {
            assert_eq!(text(serde_json::to_value(choice).unwrap()), *name);
        }
    }
}
