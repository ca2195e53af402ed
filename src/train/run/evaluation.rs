//! Evaluation of the teacher during a run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::backbone::Backbone;
use crate::collective::{Collective, Wire, all_ok, any_rank, gather, share};
use crate::data::workers_of_rank;
use crate::data::{ImageFolder, ImageSource as _, none_usable};
use crate::device::DeviceGuard;
use crate::error::{Error, Result};
use crate::eval::{FeatureExtractor, FeatureSet, KnnConfig, feature_std, knn_accuracy, rank_me};
use crate::files::model::DataCard;
use crate::kernels::IbotBackend;
use crate::train::config::RunConfig;

/// Maximum number of images for RankMe and the feature standard deviation.
const SAMPLE: usize = 256;

/// One line of `evaluations.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluation {
    /// Steps made.
    pub step: usize,
    /// k-NN accuracy of the teacher's features on the validation images, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn: Option<f64>,
    /// Number of labeled validation images that k-NN classified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<usize>,
    /// RankMe of a sample's features ([`rank_me`]): directions in use, 1 to the smaller of width and sample.
    pub rank_me: Option<f64>,
    /// Standard deviation of a sample's unit features ([`feature_std`]) times the root of their width: 0 if all are equal,
    /// about 1 at most.
    pub feature_std: Option<f64>,
    /// Number of images in that sample.
    pub sample: usize,
    /// [`ImageFolder::fingerprint`] of the images that it was made on; empty in lines of the first versions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
}

impl Evaluation {
    /// Whether both were made on the same images, as far as they say.
    pub(super) fn is_comparable(&self, other: &Self) -> bool {
        let is_unknown = self.fingerprint.is_empty() || other.fingerprint.is_empty();
        is_unknown || self.fingerprint == other.fingerprint
    }
}

/// When an evaluation takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationTime {
    /// Before the first step.
    Before,
    /// After this many epochs.
    Epoch(usize),
    /// After the last step.
    After,
}

impl fmt::Display for EvaluationTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("before training"),
            Self::Epoch(epochs) => write!(f, "after epoch {epochs}"),
            Self::After => f.write_str("after training"),
        }
    }
}

/// The images of a run.
pub(super) struct RunImages {
    /// To train on.
    pub train: Arc<ImageFolder>,
    /// Their description in model files.
    pub card: DataCard,
    /// To validate on, with the class indices of the training images.
    pub val: Option<Arc<ImageFolder>>,
    /// [`ImageFolder::fingerprint`] of those that evaluations are made on.
    pub evaluated: String,
}

/// The inputs of an evaluation besides the backbone.
pub(super) struct Evaluator<'a> {
    pub config: &'a RunConfig,
    pub images: &'a RunImages,
    pub guard: &'a DeviceGuard,
    pub stop: &'a AtomicBool,
    /// Each takes the features of a share of the images.
    pub ranks: &'a dyn Collective,
}

impl Evaluator<'_> {
    /// k-NN if `with_knn` and there are validation images; RankMe and standard deviation of a sample of those, or else of
    /// the training images. All ranks take part, and rank 0 alone has the result.
    ///
    /// # Errors
    /// Those of [`FeatureExtractor::extract`], [`crate::Error::Stopped`] among them, on any rank.
    pub fn evaluate<B: IbotBackend, M: Backbone<B>>(
        &self,
        teacher: &M,
        step: usize,
        with_knn: bool,
        device: &B::Device,
    ) -> Result<Option<Evaluation>> {
        let features = |folder: Arc<ImageFolder>| self.features::<B, M>(teacher, folder, device);
        let RunImages { train, val, .. } = self.images;
        let sample = val.as_ref().unwrap_or(train).sample(SAMPLE);
        let sample = features(Arc::new(sample))?;
        let knn = match val.as_ref().filter(|_| with_knn) {
            Some(val) => Some((features(train.clone())?, features(val.clone())?)),
            None => None,
        };
        if self.ranks.rank() > 0 {
            return Ok(None);
        }
        let mut evaluation = Evaluation {
            step,
            rank_me: rank_me(&sample),
            feature_std: feature_std(&sample).map(|std| std * (sample.width as f64).sqrt()),
            sample: sample.len(),
            fingerprint: self.images.evaluated.clone(),
            ..Evaluation::default()
        };
        if let Some((bank, queries)) = knn {
            evaluation.knn = knn_accuracy(&bank, &queries, &KnnConfig::default(), self.stop)?;
            let asked = queries.labels.iter().flatten().count();
            evaluation.queries = evaluation.knn.map(|_| asked);
        }
        Ok(Some(evaluation))
    }

    /// The features of all images of a folder on rank 0, of a share of them on the others.
    fn features<B: IbotBackend, M: Backbone<B>>(
        &self,
        teacher: &M,
        folder: Arc<ImageFolder>,
        device: &B::Device,
    ) -> Result<FeatureSet> {
        let (rank, ranks) = (self.ranks.rank(), self.ranks.size());
        // no more at once than a step has
        let most = self.config.micro_batch_size.unwrap_or(usize::MAX);
        let extractor = FeatureExtractor::<B, M> {
            backbone: teacher,
            augment: &self.config.augment,
            batch_size: (self.config.batch_size / ranks).clamp(1, most.max(1)),
            workers: workers_of_rank(self.config.workers, ranks),
            guard: self.guard,
            device,
            stop: self.stop,
        };
        let precision = self.config.precision;
        if ranks == 1 {
            return precision.autocast(|| extractor.extract(folder));
        }
        let images = folder.len();
        let part = Arc::new(folder.part(&share(rank, ranks, images).collect::<Vec<_>>()));
        let own = if part.is_empty() {
            Ok(FeatureSet {
                width: teacher.width(),
                ..FeatureSet::default()
            })
        } else {
            precision.autocast(|| extractor.extract_part(part))
        };
        let own = all_ok(self.ranks, own)?;
        if !any_rank(self.ranks, !own.is_empty())? {
            return Err(none_usable(images, None));
        }
        to_rank_0(own, self.ranks)
    }
}

/// The rows of all ranks, in the order of the ranks, on rank 0; nothing new on the others.
fn to_rank_0(own: FeatureSet, ranks: &dyn Collective) -> Result<FeatureSet> {
    if ranks.size() == 1 {
        return Ok(own);
    }
    let broken = |error: serde_json::Error| Error::Ranks(format!("features: {error}"));
    let labels = serde_json::to_vec(&own.labels).map_err(broken)?;
    let rows = gather(ranks, Wire::F32.bytes(&own.features))?;
    let labels = gather(ranks, labels)?;
    if ranks.rank() > 0 {
        return Ok(own);
    }
    let labels = labels
        .iter()
        .map(|labels| serde_json::from_slice::<Vec<_>>(labels));
    Ok(FeatureSet {
        features: rows
            .iter()
            .flat_map(|rows| Wire::F32.values(rows))
            .collect(),
        width: own.width,
        labels: labels
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(broken)?
            .concat(),
    })
}
