//! Evaluation of the teacher during a run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::backbone::Backbone;
use crate::data::ImageFolder;
use crate::device::DeviceGuard;
use crate::error::Result;
use crate::eval::{FeatureSet, KnnConfig, extract_features, feature_std, knn_accuracy, rank_me};
use crate::files::model::DataCard;
use crate::kernels::IbotBackend;
use crate::train::config::RunConfig;

/// Maximum number of pictures for RankMe and the feature standard deviation.
const SAMPLE: usize = 256;

/// One line of `evaluations.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Steps made.
    pub step: usize,
    /// k-NN accuracy of the teacher's features on the validation pictures, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn: Option<f64>,
    /// Number of labeled validation pictures that k-NN classified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<usize>,
    /// RankMe of a sample's features ([`rank_me`]): directions in use, 1 to the smaller of width and sample.
    pub rank_me: Option<f64>,
    /// Standard deviation of a sample's unit features ([`feature_std`]) times the root of their width: 0 if all are equal,
    /// about 1 at most.
    pub feature_std: Option<f64>,
    /// Number of pictures in that sample.
    pub sample: usize,
}

/// When an evaluation takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the first step.
    Before,
    /// After this many epochs.
    Epoch(usize),
    /// After the last step.
    After,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("before training"),
            Self::Epoch(epochs) => write!(f, "after epoch {epochs}"),
            Self::After => f.write_str("after training"),
        }
    }
}

/// The pictures of a run.
pub(super) struct Pictures {
    /// To train on.
    pub train: Arc<ImageFolder>,
    /// Their description in model files.
    pub card: DataCard,
    /// To validate on, with the class indices of the training pictures.
    pub val: Option<Arc<ImageFolder>>,
}

/// The inputs of an evaluation besides the backbone.
pub(super) struct Evaluator<'a> {
    pub config: &'a RunConfig,
    pub pictures: &'a Pictures,
    pub guard: &'a DeviceGuard,
    pub stop: &'a AtomicBool,
}

impl Evaluator<'_> {
    /// k-NN if `with_knn` and there are validation pictures; RankMe and standard deviation of a sample of those, or else of
    /// the training pictures.
    ///
    /// # Errors
    /// Those of [`extract_features`], [`crate::Error::Stopped`] among them.
    pub fn evaluate<B: IbotBackend, M: Backbone<B>>(
        &self,
        teacher: &M,
        step: usize,
        with_knn: bool,
        device: &B::Device,
    ) -> Result<Evaluation> {
        let features = |folder: Arc<ImageFolder>| -> Result<FeatureSet> {
            let (augment, batch) = (&self.config.augment, self.config.batch_size);
            let (guard, stop) = (self.guard, self.stop);
            let features =
                || extract_features::<B, M>(teacher, folder, augment, batch, guard, device, stop);
            self.config.precision.autocast(features)
        };
        let Pictures { train, val, .. } = self.pictures;
        let sample = val.as_ref().unwrap_or(train).sample(SAMPLE);
        let sample = features(Arc::new(sample))?;
        let mut evaluation = Evaluation {
            step,
            rank_me: rank_me(&sample),
            feature_std: feature_std(&sample).map(|std| std * (sample.width as f64).sqrt()),
            sample: sample.len(),
            ..Evaluation::default()
        };
        if let Some(val) = val.as_ref().filter(|_| with_knn) {
            let (bank, queries) = (features(train.clone())?, features(val.clone())?);
            evaluation.knn = knn_accuracy(&bank, &queries, &KnnConfig::default(), self.stop)?;
            let asked = queries.labels.iter().flatten().count();
            evaluation.queries = evaluation.knn.map(|_| asked);
        }
        Ok(evaluation)
    }
}
