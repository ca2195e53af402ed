//! A run: from its request to its folder, through all steps.

mod best;
mod evaluation;
mod every;
mod folder;
mod lines;
mod lock;
mod metrics;
mod metrics_window;
mod observer;
mod patches;
mod record;
mod request;
mod setup;
mod start;
mod together;
mod train_loop;
mod work;

pub use evaluation::{Evaluation, When};
pub use every::Every;
pub(crate) use lock::RunLock;
pub use metrics::StepMetrics;
pub use observer::{Observer, RunStart, Silent};
pub use patches::PatchColors;
pub use record::{Change, RunRecord};
pub use request::{OnDeviceLost, RunRequest};
pub(super) use setup::loader;
pub use setup::pictures_to_train_on;
pub use start::run;
pub(crate) use together::check_same_tensors;
