//! `ibot knn` and `ibot probe`: how well the features tell classes apart.

use std::fmt::Write as _;
use std::path::PathBuf;

use ibot::embedding::{Embedded, Embedder, FeatureKind};
use ibot::eval::{
    FeatureSet, ProbeConfig, knn_report, linear_probe, spread, stratified_split, wilson_interval,
};
use ibot::{Error, Result};
use serde::Serialize;

use super::model::ModelArgs;

/// Which pictures are classified by which.
#[derive(Debug, clap::Args)]
pub struct SplitArgs {
    /// Labelled image folder: a folder a class.
    #[arg(long)]
    data: PathBuf,
    /// Labelled image folder to test on; without it, a part of --data.
    #[arg(long)]
    val: Option<PathBuf>,
    /// Share of --data that is held out, without --val.
    #[arg(long, default_value_t = 0.2, conflicts_with = "val")]
    held_out: f64,
    /// Held-out parts to try, without --val; the result is their mean.
    #[arg(long, default_value_t = 5, conflicts_with = "val")]
    splits: u64,
    /// Feature of a picture.
    #[arg(long, value_enum, default_value = "cls")]
    features: FeatureKind,
}

/// Flags of `ibot knn`.
#[derive(Debug, clap::Args)]
pub struct KnnArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    split: SplitArgs,
    /// Numbers of neighbours.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10,20,100")]
    k: Vec<usize>,
    /// A neighbour at cosine similarity s votes with exp(s / temperature).
    #[arg(long, default_value_t = 0.07)]
    temperature: f64,
}

/// Flags of `ibot probe`.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    split: SplitArgs,
    /// Inverse strengths of the penalty to choose from, by a held-out fifth of the training pictures.
    #[arg(long, value_delimiter = ',', default_values_t = ProbeConfig::default().inverse_strengths)]
    strengths: Vec<f64>,
}

/// One way to classify, over all splits.
#[derive(Debug, Serialize)]
struct Row {
    /// `k = 20`, or `linear`.
    classifier: String,
    /// Share of the pictures whose class is the first guess.
    top1: f64,
    /// Share whose class is among the first five guesses.
    top5: f64,
    /// 95 % interval of top1 (Wilson) with --val; mean minus and plus one deviation over the splits without.
    top1_interval: [f64; 2],
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    data: String,
    val: Option<String>,
    pictures: usize,
    classes: usize,
    tested: usize,
    splits: usize,
    rows: Vec<Row>,
}

/// A training and a test part.
type Pair = (FeatureSet, FeatureSet);

impl SplitArgs {
    fn pairs(&self, model: &ModelArgs, embedder: &Embedder) -> Result<(Vec<Pair>, Embedded)> {
        let folder = model.scan(&self.data)?;
        if folder.classes().len() < 2 {
            let reason = "has fewer than two classes: each folder of its first level is one";
            return Err(Error::data(&self.data, reason));
        }
        let train = model.embed(embedder, &folder, self.features)?;
        if let Some(val) = &self.val {
            let queries = model.scan(val)?;
            let queries = queries.as_ref().clone().with_classes(folder.classes())?;
            let test = model.embed(embedder, &queries.into(), self.features)?;
            return Ok((vec![(train.set.clone(), test.set)], train));
        }
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            let remedy = "must be above 0 and below 1, such as 0.2";
            return Err(Error::config("--held-out", self.held_out, remedy));
        }
        if self.splits == 0 {
            return Err(Error::config("--splits", 0, "must be at least 1"));
        }
        let pairs = (0..self.splits).map(|seed| {
            let split = stratified_split(&train.set.labels, self.held_out, seed);
            (train.set.rows(&split.kept), train.set.rows(&split.held_out))
        });
        let pairs: Vec<Pair> = pairs.collect();
        if pairs
            .iter()
            .any(|(kept, held_out)| kept.is_empty() || held_out.is_empty())
        {
            let reason = "has too few pictures with a class to hold some out; give --val";
            return Err(Error::data(&self.data, reason));
        }
        Ok((pairs, train))
    }

    /// The report over all splits; `classify` gives name, top1 and top5 of each way for one of them.
    fn report(
        &self,
        model: &ModelArgs,
        classify: impl Fn(&FeatureSet, &FeatureSet) -> Option<Vec<(String, f64, f64)>>,
    ) -> Result<()> {
        let embedder = model.load()?;
        let (pairs, embedded) = self.pairs(model, &embedder)?;
        let none = || Error::data(&self.data, "has no picture with a class");
        let found: Vec<Vec<(String, f64, f64)>> = pairs
            .iter()
            .map(|(train, test)| classify(train, test).ok_or_else(none))
            .collect::<Result<_>>()?;
        let tested = pairs.iter().map(|(_, test)| test.len()).sum();
        let ways = found.first().map_or(0, Vec::len);
        let row = |way: usize| {
            let top1: Vec<f64> = found.iter().map(|split| split[way].1).collect();
            let top5 = found.iter().map(|split| split[way].2).sum::<f64>() / found.len() as f64;
            let spread = spread(&top1)?;
            let interval = match self.val {
                Some(_) => wilson_interval(spread.mean, tested),
                None => [
                    spread.mean - spread.deviation,
                    spread.mean + spread.deviation,
                ],
            };
            Some(Row {
                classifier: found[0][way].0.clone(),
                top1: spread.mean,
                top5,
                top1_interval: interval,
            })
        };
        let report = Report {
            model: model.model.display().to_string(),
            data: self.data.display().to_string(),
            val: self.val.as_ref().map(|val| val.display().to_string()),
            pictures: embedded.set.len(),
            classes: embedded.classes.len(),
            tested,
            splits: pairs.len(),
            rows: (0..ways).filter_map(row).collect(),
        };
        model.answer(&report, || report.text())
    }
}

impl Report {
    fn text(&self) -> String {
        let how = match self.val {
            Some(_) => format!("{} pictures of another folder; 95 % interval", self.tested),
            None => format!("mean of {} held-out parts, and one deviation", self.splits),
        };
        let mut text = format!("{} classes; {how}\n", self.classes);
        for row in &self.rows {
            let [low, high] = row.top1_interval.map(|share| 100.0 * share);
            let (top1, top5) = (100.0 * row.top1, 100.0 * row.top5);
            let name = &row.classifier;
            let _ = writeln!(
                text,
                "{name:>9}  top-1 {top1:5.1} % ({low:.1} to {high:.1})  top-5 {top5:5.1} %"
            );
        }
        text
    }
}

impl KnnArgs {
    pub fn run(&self) -> Result<()> {
        if self.k.contains(&0) {
            return Err(Error::config("--k", 0, "must be at least 1"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let remedy = "must be above 0, such as 0.07";
            return Err(Error::config("--temperature", self.temperature, remedy));
        }
        self.split.report(&self.model, |bank, queries| {
            let scores = knn_report(bank, queries, &self.k, self.temperature)?;
            let named = scores.into_iter();
            Some(
                named
                    .map(|score| (format!("k = {}", score.neighbours), score.top1, score.top5))
                    .collect(),
            )
        })
    }
}

impl ProbeArgs {
    pub fn run(&self) -> Result<()> {
        let wrong = self
            .strengths
            .iter()
            .find(|strength| !(strength.is_finite() && **strength > 0.0));
        if let Some(wrong) = wrong {
            return Err(Error::config(
                "--strengths",
                wrong,
                "must be above 0, such as 0.01",
            ));
        }
        let config = ProbeConfig {
            inverse_strengths: self.strengths.clone(),
            ..ProbeConfig::default()
        };
        self.split.report(&self.model, |train, test| {
            let score = linear_probe(train, test, &config)?;
            Some(vec![(
                format!("C = {}", score.inverse_strength),
                score.top1,
                score.top5,
            )])
        })
    }
}
