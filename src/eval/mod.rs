//! What was learned: frozen features and how well they tell classes apart.

mod features;
mod knn;

pub use features::{FeatureSet, extract_features};
pub use knn::{KnnConfig, knn_accuracy};
