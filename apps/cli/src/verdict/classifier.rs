//! What a run of `ibot finetune` reached.

use std::fmt;

use ibot::eval::wilson_interval;
use serde_json::Value;

/// The accuracy of the classifier of the last epoch.
pub struct Classifier {
    top1: f64,
    images: u64,
    /// What always guessing the most frequent class is right on; none in runs of earlier versions.
    guessing: Option<f64>,
}

impl Classifier {
    /// That of the last line of a run's metrics; none in a run of pre-training.
    pub fn of(metrics: &[Value]) -> Option<Self> {
        let last = metrics.last()?;
        Some(Self {
            top1: last["top1"].as_f64()?,
            images: last["tested"].as_u64()?,
            guessing: last["most_frequent_class"].as_f64(),
        })
    }

    /// Whether it is measurably above guessing, with its whole 95 % interval; with one class, nothing could be.
    pub fn is_above_guessing(&self) -> bool {
        let [low, _] = wilson_interval(self.top1, self.images as usize);
        let guessing = self.guessing.filter(|guessing| *guessing < 1.0);
        guessing.is_none_or(|guessing| low > guessing)
    }
}

impl fmt::Display for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, images) = (100.0 * self.top1, self.images);
        write!(
            f,
            "the classifier is right on {percent:.1} % of {images} test images"
        )?;
        match self.guessing.filter(|_| !self.is_above_guessing()) {
            Some(guessing) => write!(
                f,
                ", not measurably more than the {:.1} % of always guessing the most frequent class",
                100.0 * guessing
            ),
            None => Ok(()),
        }
    }
}
