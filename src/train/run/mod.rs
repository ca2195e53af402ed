//! A run: from its request to its folder, through all steps.

mod backbones;
mod best;
mod evaluation;
mod folder;
mod image_counts;
mod interval;
mod lines;
mod lock;
mod metrics;
mod metrics_window;
mod observer;
mod options;
mod patches;
mod record;
mod request;
mod setup;
mod start;
mod together;
mod train_loop;
mod work;

pub use best::best_teacher;
pub use evaluation::{Evaluation, EvaluationTime};
pub use image_counts::{ImageCounts, ValidationImages};
pub use interval::Interval;
pub(crate) use lines::{append, damage_in_words, read_with_damage};
pub(crate) use lock::RunLock;
pub use metrics::StepMetrics;
pub use observer::{NoObserver, Observer, RunStart};
pub use options::{RunOptions, StartWeights};
pub use patches::PatchColors;
pub use record::{RunRecord, SettingChange};
pub use request::{OnDeviceLost, RunRequest};
pub(super) use setup::loader;
pub use setup::{check_start, images_to_train_on};
pub use start::run;
pub(crate) use together::check_same_tensors;
