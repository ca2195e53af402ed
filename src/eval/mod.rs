//! Evaluation: frozen features, and how well they separate classes; `patches`: how well those of patches segment images.

mod agreement;
mod classifier_score;
mod cluster;
mod confidence;
mod confusion;
mod eigen;
mod features;
mod foreground;
mod knn;
mod lbfgs;
mod logistic;
mod matches;
mod outliers;
mod patches;
mod pca;
mod probe;
mod products;
mod rank_me;
mod sgd;
mod viridis;

pub use agreement::{adjusted_rand_index, normalized_mutual_information};
pub use classifier_score::ClassifierScore;
pub use cluster::{Clustering, KMeansConfig, k_means};
pub use confidence::{Split, Spread, labeled_split, spread, stratified_split, wilson_interval};
pub use confusion::Confusion;
pub use features::{FeatureExtractor, FeatureSet, last_columns};
pub use foreground::foreground;
pub use knn::{KnnConfig, KnnScore, knn_accuracy, knn_report, knn_report_until, nearest};
pub use logistic::LogisticRegression;
pub use matches::mutual_matches;
pub use outliers::{Distance, NormalRows};
pub use patches::{
    Cover, PatchBank, PatchProbe, PatchProbeConfig, PatchRows, covers, upsampled_classes,
};
pub use pca::{Pca, patch_pca_rgb};
pub use probe::{ProbeConfig, ProbeOptimizer, ProbeScore, linear_probe};
pub use rank_me::{feature_std, rank_me};
pub use viridis::viridis;
