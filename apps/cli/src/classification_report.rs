//! What `ibot knn`, `ibot probe`, `ibot finetune` and `ibot classify` report: the accuracy of classifiers.

use std::fmt::Write as _;

use ibot::error::counted;
use serde::Serialize;

/// Classes up to which a top-5 accuracy says nothing: five guesses name them all.
const GUESSED_BY_ALL: usize = 5;

/// Least width of the names of classifiers.
const WIDTH: usize = 13;

/// How often a classifier is right.
#[derive(Debug, Serialize)]
pub struct Accuracy {
    /// Fraction of images whose class is the first guess.
    pub top1: f64,
    /// Fraction whose class is among the first five guesses.
    pub top5: f64,
    /// 95 % interval of top1 (Wilson), with one test; of several splits, their mean minus and plus one standard deviation.
    pub top1_interval: [f64; 2],
}

impl Accuracy {
    /// As text, with so many classes.
    pub fn text(&self, classes: usize) -> String {
        let [low, high] = self.top1_interval.map(|share| 100.0 * share);
        let top5 =
            top5_text(self.top5, classes).map_or_else(String::new, |top5| format!("  {top5}"));
        format!(
            "top-1 {:5.1} % ({low:.1} to {high:.1}){top5}",
            100.0 * self.top1
        )
    }
}

/// A top-5 accuracy as text; none with so few classes that it says nothing.
pub fn top5_text(top5: f64, classes: usize) -> Option<String> {
    (classes > GUESSED_BY_ALL).then(|| format!("top-5 {:5.1} %", 100.0 * top5))
}

/// One classifier, over all splits.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `k = 20`, `last block`, `last 4 blocks`.
    pub classifier: String,
    /// The strength or learning rate that the probe chose on each split; empty for k-NN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<f64>,
    #[serde(flatten)]
    pub accuracy: Accuracy,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub data: String,
    pub val: Option<String>,
    pub images: usize,
    pub classes: usize,
    pub tested: usize,
    pub splits: usize,
    pub rows: Vec<Row>,
    /// Name of the value that the probe chooses.
    #[serde(skip)]
    pub chosen: &'static str,
}

impl Report {
    /// As text.
    pub fn text(&self) -> String {
        let tested = counted(self.tested, "image");
        let how = match (&self.val, self.splits) {
            (Some(_), _) => format!("{tested} of another folder; 95 % interval"),
            (None, 1) => format!("{tested} held out; 95 % interval"),
            (None, splits) => {
                format!("mean and one standard deviation over {splits} held-out splits")
            }
        };
        let mut text = format!("{} classes; {how}\n", self.classes);
        let names = self.rows.iter().map(|row| row.classifier.len());
        let width = names.max().unwrap_or(0).max(WIDTH);
        for row in &self.rows {
            let accuracy = row.accuracy.text(self.classes);
            let _ = write!(text, "{:>width$}  {accuracy}", row.classifier);
            let mut chosen = row.chosen.clone();
            chosen.sort_by(f64::total_cmp);
            chosen.dedup();
            let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
            let _ = if chosen.is_empty() {
                writeln!(text)
            } else {
                writeln!(text, "  with {} {}", self.chosen, chosen.join(" or "))
            };
        }
        text
    }
}
