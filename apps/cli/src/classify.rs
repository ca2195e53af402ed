//! `ibot classify`: the classes of images, by a classifier that `ibot finetune` wrote.

use std::fmt::Write as _;
use std::path::PathBuf;

use ibot::Result;
use ibot::data::ImageFolder;
use ibot::embedding::{Classified, FeatureKind, classify, write_classified};
use ibot::error::{counted, printable};
use ibot::eval::{ClassifierScore, wilson_interval};
use ibot::files::model::LinearClassifier;
use serde::Serialize;

use super::classification_report::Accuracy;
use super::destination;
use super::images::Images;
use super::model::ModelArgs;

/// Flags of `ibot classify`.
#[derive(Debug, clap::Args)]
pub struct ClassifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: Images,
    /// CSV file to write: path, class, probability, label.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    classes: Vec<String>,
    images: Vec<Classified>,
    /// None where no image has a class of the classifier's.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Test>,
}

/// How often the classifier is right.
#[derive(Debug, Serialize)]
struct Test {
    /// Images whose class is one of the classifier's.
    tested: usize,
    #[serde(flatten)]
    accuracy: Accuracy,
}

impl Test {
    fn new(score: ClassifierScore) -> Option<Self> {
        (score.images > 0).then(|| Self {
            tested: score.images,
            accuracy: Accuracy {
                top1: score.top1(),
                top5: score.top5(),
                top1_interval: wilson_interval(score.top1(), score.images),
            },
        })
    }
}

impl ClassifyArgs {
    pub fn run(&self) -> Result<()> {
        if let Some(out) = &self.out {
            destination::csv("--out", out)?; // another ending could be that of the model
            destination::outside("--out", out, self.data.path())?;
        }
        let embedder = self.model.load()?;
        let classifier = LinearClassifier::read(&self.model.local()?.0, embedder.card())?;
        let folder = self.model.scan(self.data.path())?;
        let embedded = self.model.embed(&embedder, &folder, FeatureKind::Cls, 1)?;
        let found = classify(&embedded, &classifier);
        let test = Test::new(found.score);
        if test.is_some() {
            self.note_parts(&folder);
        }
        let report = Report {
            classes: classifier.classes().to_vec(),
            images: found.images,
            test,
        };
        if let Some(out) = &self.out {
            write_classified(out, &report.images)?;
        }
        self.model
            .answer(&report, || report.text(self.out.as_ref()))
    }

    /// A set's parts may be the images that the classifier was trained on.
    fn note_parts(&self, folder: &ImageFolder) {
        let parts = &folder.summary().parts;
        if parts.len() > 1 {
            self.model.note(&format!(
                "WARNING tests on all parts of this set: {}; for the accuracy on images that it was not trained on, give the \
                 part for testing alone",
                parts.join(", ")
            ));
        }
    }
}

impl Report {
    /// One line per image, or the file they were written to; then the accuracy.
    fn text(&self, out: Option<&PathBuf>) -> String {
        let mut text = match out {
            Some(out) => self.written(out),
            None => self.listed(),
        };
        if let Some(Test { tested, accuracy }) = &self.test {
            let classes = self.classes.len();
            let accuracy = accuracy.text(classes);
            let _ = writeln!(
                text,
                "{classes} classes; {} with one of them; 95 % interval\n{accuracy}",
                counted(*tested, "image")
            );
        }
        text
    }

    fn written(&self, out: &PathBuf) -> String {
        let images = counted(self.images.len(), "image");
        format!("{}: {images}\n", printable(out))
    }

    fn listed(&self) -> String {
        let mut text = String::new();
        for image in &self.images {
            let percent = 100.0 * image.probability;
            let (class, path) = (printable(&image.class), printable(&image.path));
            let _ = writeln!(text, "{percent:5.1} %  {class}  {path}");
        }
        text
    }
}
