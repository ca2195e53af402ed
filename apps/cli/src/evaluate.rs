//! How well features separate classes, and `ibot knn`, which tells it by the nearest neighbors.

use std::path::Path;

use ibot::data::ImageFolder;
use ibot::embedding::Embedded;
use ibot::eval::{FeatureSet, PatchBank, PatchRows, Split, knn_report, spread, wilson_interval};
use ibot::path_text::path_text;
use ibot::{Error, Result};

use super::classification_report::{Accuracy, Report, Row};
use super::features::Source;
use super::model::{ModelArgs, SplitFolders};
use super::ranks::RankArgs;
use super::segment::{PatchArgs, Ways};
use super::segmentation_report::Way;
use super::split::SplitArgs;

/// What is evaluated, and on which images: flags of `ibot knn` and `ibot probe`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("model", |model| model.required(false)))]
pub struct EvaluationArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub split: SplitArgs,
    #[command(flatten)]
    pub patches: PatchArgs,
}

/// Flags of `ibot knn`.
#[derive(Debug, clap::Args)]
pub struct KnnArgs {
    #[command(flatten)]
    shared: EvaluationArgs,
    /// Numbers of neighbors, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10,20,100")]
    k: Vec<usize>,
    /// A neighbor at cosine similarity s votes with exp(s / temperature).
    #[arg(long, default_value_t = 0.07)]
    temperature: f64,
    #[command(flatten)]
    ranks: RankArgs,
}

/// Default number of held-out splits.
const SPLITS: u64 = 5;

/// The result of one classifier on one split.
pub struct Found {
    pub classifier: String,
    pub chosen: Option<f64>,
    pub top1: f64,
    pub top5: f64,
}

/// What the classifiers of a set of features are tested on.
enum Tests {
    /// Other images.
    Others(FeatureSet),
    /// Parts of the set, each in its turn, while the others are trained on.
    HeldOut(Vec<Split>),
}

impl Tests {
    /// Runs `classify` on each training and test part.
    fn run<T>(
        &self,
        all: &FeatureSet,
        classify: impl Fn(&FeatureSet, &FeatureSet) -> Result<T>,
    ) -> Result<Vec<T>> {
        match self {
            Self::Others(test) => Ok(vec![classify(all, test)?]),
            // one after the other: the parts of a split are a copy of all features
            Self::HeldOut(splits) => splits
                .iter()
                .map(|split| classify(&all.rows(&split.kept), &all.rows(&split.held_out)))
                .collect(),
        }
    }

    /// Number of labeled images that are tested, over all splits.
    fn tested(&self, all: &FeatureSet) -> usize {
        match self {
            Self::Others(test) => test.labels.iter().flatten().count(),
            Self::HeldOut(splits) => {
                let held_out = splits.iter().flat_map(|split| &split.held_out);
                held_out.filter(|at| all.labels[**at].is_some()).count()
            }
        }
    }
}

impl SplitArgs {
    /// The folders to train on and to test on; without a folder, the file of features counts as one.
    fn folders(&self, model: &ModelArgs, source: &Source<'_>) -> Result<SplitFolders> {
        match self.data.path() {
            Some(data) => model.split(data, self.val.as_deref(), self.held_out.is_some()),
            None => Ok(SplitFolders {
                data: source.name().into(),
                val: None,
            }),
        }
    }

    /// The features to train on, and what tests them; none but on the first of several processes.
    fn tests(
        &self,
        model: &ModelArgs,
        source: &mut Source<'_>,
        folders: &SplitFolders,
    ) -> Result<Option<(Embedded, Tests)>> {
        let folder = match self.data.path() {
            Some(_) => Some(source.scan(&folders.data)?),
            None => None,
        };
        if let Some(folder) = &folder {
            check_classes(&folders.data, folder.classes())?;
        }
        if let (Some(val), Some(folder)) = (&folders.val, &folder) {
            let queries = source.scan(val)?;
            let queries: ImageFolder = queries.as_ref().clone().with_classes(folder.classes())?;
            if queries.labels().iter().flatten().next().is_none() {
                let reason = "has no labeled image; put the images of each class in a subfolder";
                return Err(Error::data(val, reason));
            }
            let train = source.of_folder(folder)?;
            let test = source.of_folder(&queries.into())?;
            let tests = Tests::Others(test.set);
            return Ok(model.ranks.is_first().then_some((train, tests)));
        }
        if let Some(folder) = &folder {
            self.splits(&folders.data, &folder.labels(), SPLITS)?; // before hours of work
        }
        let train = source.of(folder.as_ref())?;
        if !model.ranks.is_first() {
            return Ok(None);
        }
        check_classes(&folders.data, &train.classes)?;
        let splits = self.splits(&folders.data, &train.set.labels, SPLITS)?;
        Ok(Some((train, Tests::HeldOut(splits))))
    }

    /// The report over all splits; `classify` runs each classifier on one split, `chosen` is the name of what it chooses.
    pub fn report(
        &self,
        model: &ModelArgs,
        source: &mut Source<'_>,
        chosen: &'static str,
        classify: impl Fn(&FeatureSet, &FeatureSet) -> Option<Vec<Found>>,
    ) -> Result<()> {
        let folders = self.folders(model, source)?;
        let Some((embedded, tests)) = self.tests(model, source, &folders)? else {
            return Ok(());
        };
        let none = || Error::data(&folders.data, "has no labeled image");
        let found = tests.run(&embedded.set, |train, test| {
            classify(train, test).ok_or_else(none)
        })?;
        let tested = tests.tested(&embedded.set);
        let ways = found.first().map_or(0, Vec::len);
        let row = |way: usize| {
            let top1: Vec<f64> = found.iter().map(|split| split[way].top1).collect();
            let top5 = found.iter().map(|split| split[way].top5).sum::<f64>() / found.len() as f64;
            let spread = spread(&top1)?;
            let interval = match found.len() {
                1 => wilson_interval(spread.mean, tested),
                // a fraction is at most 1
                _ => [
                    (spread.mean - spread.deviation).max(0.0),
                    (spread.mean + spread.deviation).min(1.0),
                ],
            };
            Some(Row {
                classifier: found[0][way].classifier.clone(),
                chosen: found.iter().filter_map(|split| split[way].chosen).collect(),
                accuracy: Accuracy {
                    top1: spread.mean,
                    top5,
                    top1_interval: interval,
                },
            })
        };
        let report = Report {
            model: source.name(),
            data: path_text(&folders.data),
            val: folders.val.as_deref().map(path_text),
            images: embedded.set.len(),
            classes: embedded.classes.len(),
            tested,
            splits: found.len(),
            rows: (0..ways).filter_map(row).collect(),
            chosen,
        };
        model.answer(&report, || report.text())
    }
}

impl KnnArgs {
    pub fn run(mut self) -> Result<()> {
        self.shared.model.join(&self.ranks)?;
        self.shared.model.ranks.end(self.evaluated())
    }

    fn evaluated(&self) -> Result<()> {
        if self.k.contains(&0) {
            return Err(Error::config("--k", 0, "must be at least 1"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let remedy = "must be above 0, such as 0.07";
            return Err(Error::config("--temperature", self.temperature, remedy));
        }
        self.shared.split.check()?;
        if self.shared.patches.is_on() {
            self.shared.model.ranks.alone_for("--patches", "given")?;
            self.shared.patches.check(self.shared.split.data()?)?;
            let embedder = self.shared.model.load()?;
            return self.shared.patches.report(
                &self.shared.model,
                &self.shared.split,
                &embedder,
                1,
                "",
                |train| self.patch_ways(train),
            );
        }
        let mut source = Source::open(&self.shared.model, &self.shared.split.features, 1)?;
        self.shared
            .split
            .report(&self.shared.model, &mut source, "", |bank, queries| {
                let scores = knn_report(bank, queries, &self.k, self.temperature)?;
                let all = bank.labels.iter().flatten().count();
                let found = self.k.iter().zip(scores).map(|(asked, score)| Found {
                    classifier: voters(*asked, all),
                    chosen: None,
                    top1: score.top1,
                    top5: score.top5,
                });
                Some(found.collect())
            })
    }
}

impl KnnArgs {
    /// The votes of each number of neighbors.
    fn patch_ways(&self, train: PatchRows) -> Option<Ways<'_>> {
        let bank = PatchBank::new(train)?;
        let way = |k: &usize| Way {
            classifier: format!("k = {k}"),
            chosen: None,
        };
        Some(Ways {
            ways: self.k.iter().map(way).collect(),
            classes: bank.classes().to_vec(),
            scores: Box::new(move |patches| bank.scores(patches, &self.k, self.temperature)),
        })
    }
}

/// The name of so many neighbors among `all` images.
fn voters(neighbors: usize, all: usize) -> String {
    if neighbors >= all {
        format!("k = {neighbors} (all {all})")
    } else {
        format!("k = {neighbors}")
    }
}

/// Refuses images of fewer than two classes.
fn check_classes(data: &Path, classes: &[String]) -> Result<()> {
    if classes.len() < 2 {
        let reason = "has fewer than two classes; put the images of each class in a subfolder";
        return Err(Error::data(data, reason));
    }
    Ok(())
}
