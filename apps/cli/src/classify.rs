//! `ibot classify`: the classes of images, by a classifier that `ibot finetune` wrote.

use std::fmt::Write as _;
use std::path::PathBuf;

use ibot::Result;
use ibot::embedding::{Classified, FeatureKind, classify, write_classified};
use ibot::error::{counted, printable};
use ibot::files::model::LinearClassifier;
use serde::Serialize;

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
    /// CSV file to write: path, class, probability.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    classes: Vec<String>,
    images: Vec<Classified>,
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
        let report = Report {
            classes: classifier.classes().to_vec(),
            images: classify(&embedded, &classifier),
        };
        if let Some(out) = &self.out {
            write_classified(out, &report.images)?;
        }
        self.model
            .answer(&report, || report.text(self.out.as_ref()))
    }
}

impl Report {
    /// One line per image, or the file they were written to.
    fn text(&self, out: Option<&PathBuf>) -> String {
        if let Some(out) = out {
            return format!(
                "{}: {}",
                printable(out),
                counted(self.images.len(), "image")
            );
        }
        let mut text = String::new();
        for image in &self.images {
            let percent = 100.0 * image.probability;
            let (class, path) = (printable(&image.class), printable(&image.path));
            let _ = writeln!(text, "{percent:5.1} %  {class}  {path}");
        }
        text
    }
}
