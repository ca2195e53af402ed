//! Model files: a backbone's weights under timm's names, with metadata.
//!
//! - `card`: architecture, preprocessing, origin, in the metadata of the safetensors file
//! - `fingerprint`: features of eight built-in images, which tell whether another device computes the same
//! - `file`: reading and writing
//! - `normalization`: which one images get, and why
//! - `classifier`: the linear layer of a file that was fine-tuned
//! - `source`: a file, or a name on the Hugging Face hub
//! - `onnx`, `transformers`: as files for other programs
//! - `timm_folder`: what timm and transformers need beside a file to open its folder
//! - `description`, `timm_config`, `transformers_config`: what `config.json` and `preprocessor_config.json` beside weights say
//! - `hub`: how a name becomes a file, behind the feature of that name

mod card;
mod classifier;
mod described;
mod description;
mod file;
mod fingerprint;
#[cfg(feature = "hub")]
mod hub;
mod normalization;
mod onnx;
mod source;
mod timm_config;
mod timm_folder;
mod transformers;
mod transformers_config;

pub use card::{CARD_FORMAT, DataCard, ModelCard, Preprocessing, read_card};
pub use classifier::LinearClassifier;
pub(crate) use classifier::softmax;
pub use described::{Described, LocalModel};
pub use description::holds_model;
pub use file::{LoadedModel, ModelOptions, file_hash, read_model, write_model, write_model_as};
pub(crate) use fingerprint::first_features;
pub use fingerprint::{FINGERPRINT_IMAGES, compare_fingerprint, fingerprint, fingerprint_images};
pub use normalization::Normalized;
pub use onnx::OnnxModel;
pub use source::ModelSource;
pub use timm_folder::{timm_model, write_timm_folder};
pub use transformers::TransformersModel;
