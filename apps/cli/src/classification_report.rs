//! What `ibot knn` and `ibot probe` report: the accuracy of each classifier.

use std::fmt::Write as _;

use ibot::error::counted;
use serde::Serialize;

/// One classifier, over all splits.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `k = 20`, `last block`, `last 4 blocks`.
    pub classifier: String,
    /// The strength or learning rate that the probe chose on each split; empty for k-NN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<f64>,
    /// Fraction of images whose class is the first guess.
    pub top1: f64,
    /// Fraction whose class is among the first five guesses.
    pub top5: f64,
    /// 95 % interval of top1 (Wilson), with --val or one split; of several splits, their mean minus and plus one standard deviation.
    pub top1_interval: [f64; 2],
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
        for row in &self.rows {
            let [low, high] = row.top1_interval.map(|share| 100.0 * share);
            let (top1, top5) = (100.0 * row.top1, 100.0 * row.top5);
            let name = &row.classifier;
            let _ = write!(
                text,
                "{name:>13}  top-1 {top1:5.1} % ({low:.1} to {high:.1})  top-5 {top5:5.1} %"
            );
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
