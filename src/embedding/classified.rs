//! Predictions of the classifier in a model file.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::csv_text::{field as csv_field, label_field};
use crate::data::folder::class_named;
use crate::embedding::embedded::Embedded;
use crate::error::Result;
use crate::eval::ClassifierScore;
use crate::files::model::{LinearClassifier, softmax};
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
    /// The class that the image has, where it has one; it need not be one of the classifier's.
    pub label: Option<String>,
}

/// What a classifier says of images, and how often it is right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Classification {
    /// Each image, in order.
    pub images: Vec<Classified>,
    /// Of the images whose class is one of the classifier's.
    pub score: ClassifierScore,
}

/// The most probable class of each image, from features of [`super::FeatureKind::Cls`] by the classifier's own file; of
/// equal ones the first.
pub fn classify(embedded: &Embedded, classifier: &LinearClassifier) -> Classification {
    let (set, names) = (&embedded.set, classifier.classes());
    let known: Vec<Option<usize>> = embedded
        .classes
        .iter()
        .map(|own| class_named(names, own))
        .collect();
    let mut found = Classification::default();
    let features = set.features.chunks_exact(set.width.max(1));
    for ((feature, path), label) in features.zip(&embedded.paths).zip(&set.labels) {
        let logits = classifier.logits(feature);
        let named = softmax(&logits).into_iter().zip(names);
        let best = named.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let Some((probability, class)) = best else {
            continue; // a classifier without a class
        };
        found.images.push(Classified {
            path: path.clone(),
            class: class.clone(),
            probability,
            label: label.and_then(|own| embedded.classes.get(own).cloned()),
        });
        if let Some(label) = label.and_then(|own| known.get(own).copied().flatten()) {
            let score = ClassifierScore::from_logits(&logits, &[label]);
            found.score = found.score.plus(score);
        }
    }
    found
}

/// Writes `path,class,probability,label`, a line an image, whole or not at all.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write_classified(path: &Path, classified: &[Classified]) -> Result<()> {
    let written = Unfinished::write(path, |file| {
        writeln!(file, "path,class,probability,label")?;
        for image in classified {
            let (name, class) = (path_text(&image.path), &image.class);
            let (name, class) = (csv_field(&name), csv_field(class));
            let label = label_field(image.label.as_deref());
            writeln!(file, "{name},{class},{:.6},{label}", image.probability)?;
        }
        Ok(())
    })?;
    written.finish()
}
