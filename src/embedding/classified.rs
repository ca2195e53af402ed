//! Predictions of the classifier in a model file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::csv_text::field as csv_field;
use crate::embedding::embedded::Embedded;
use crate::error::Result;
use crate::files::model::LinearClassifier;
use crate::path_text;
use crate::path_text::path_text;
use crate::unfinished::Unfinished;

/// The most probable class of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Classified {
    /// The image.
    #[serde(serialize_with = "path_text::serialize")]
    pub path: PathBuf,
    /// Name of the class.
    pub class: String,
    /// Its probability, 0 to 1.
    pub probability: f64,
}

/// The most probable class of each image, from features of [`super::FeatureKind::Cls`] by the classifier's own file; of
/// equal ones the first.
pub fn classify(embedded: &Embedded, classifier: &LinearClassifier) -> Vec<Classified> {
    let features = embedded
        .set
        .features
        .chunks_exact(embedded.set.width.max(1));
    let classified = |(feature, path): (&[f32], &PathBuf)| {
        let probabilities = classifier.probabilities(feature);
        let named = probabilities.iter().zip(classifier.classes());
        let (probability, class) =
            named.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
        Some(Classified {
            path: path.clone(),
            class: class.clone(),
            probability: *probability,
        })
    };
    features
        .zip(&embedded.paths)
        .filter_map(classified)
        .collect()
}

/// Writes `path,class,probability`, a line an image, whole or not at all.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write_classified(path: &Path, classified: &[Classified]) -> Result<()> {
    let written = Unfinished::write(path, |file| {
        writeln!(file, "path,class,probability")?;
        for image in classified {
            let (name, class) = (path_text(&image.path), &image.class);
            let (name, class) = (csv_field(&name), csv_field(class));
            writeln!(file, "{name},{class},{:.6}", image.probability)?;
        }
        Ok(())
    })?;
    written.finish()
}
