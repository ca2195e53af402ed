//! What a run reached, in words: whether it is healthy, what its features are worth, and what to do next.

mod classifier;

use std::path::{Path, PathBuf};

use ibot::error::counted;
use ibot::train::health::Anomaly;
use ibot::train::{OnAnomaly, RunRecord};
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use super::curves::RunLog;
use super::next::{knn_command, quoted, teacher_to_use};
use classifier::Classifier;

/// RankMe below which features say almost nothing.
const LOW_RANK: f64 = 3.0;
/// Standard errors that a difference in accuracy must exceed to count as one.
const CERTAIN: f64 = 1.96;
/// Fraction of the steps over which the loss is averaged, at the start and at the end.
const ENDS: usize = 20;

/// How a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Good,
    /// Neither a health check nor an accuracy says.
    Unknown,
    Attention,
    Bad,
}

impl State {
    /// Class in the page's style.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unknown | Self::Attention => "attention",
            Self::Bad => "bad",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "Healthy",
            Self::Unknown => "Too early to say",
            Self::Attention => "Needs attention",
            Self::Bad => "Training failed",
        }
    }
}

/// k-NN accuracy of the teacher, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Before training; none if it was not measured.
    pub before: Option<f64>,
    /// At the last evaluation.
    pub after: f64,
    /// Test images.
    pub images: u64,
}

/// The verdict about a run.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    #[serde(serialize_with = "ibot::path_text::serialize")]
    pub run: PathBuf,
    pub state: State,
    /// One line.
    pub headline: String,
    /// Sentences.
    pub findings: Vec<String>,
    /// What to do next, and the command for it.
    pub next: Vec<(String, String)>,
    pub steps: u64,
    /// Of all steps.
    pub seconds: f64,
    /// Mean of the first and of the last steps.
    pub loss: Option<[f64; 2]>,
    pub knn: Option<Accuracy>,
    /// At the last evaluation.
    pub rank_me: Option<f64>,
}

impl Verdict {
    /// About the run in `folder`.
    pub fn new(folder: &Path, record: Option<&RunRecord>, log: &RunLog) -> Self {
        let steps = log.metrics.last().and_then(|line| line["step"].as_u64());
        let seconds = log
            .metrics
            .iter()
            .filter_map(|line| line["step_s"].as_f64().or_else(|| line["epoch_s"].as_f64()));
        let rank_me = log
            .evaluations
            .iter()
            .rev()
            .find_map(|line| line["rank_me"].as_f64());
        let mut verdict = Self {
            run: folder.to_path_buf(),
            state: State::Good,
            headline: String::new(),
            findings: Vec::new(),
            next: Vec::new(),
            steps: steps.unwrap_or(0),
            seconds: seconds.sum(),
            loss: losses(&log.metrics),
            knn: accuracy(&log.evaluations),
            rank_me,
        };
        let failure = record.and_then(|record| record.failure.clone());
        let mut reason = verdict.judge(log);
        let has_diverged = failure.is_some();
        if let Some(failure) = failure {
            verdict.worsen(State::Bad);
            reason = failure;
        }
        let planned = record.and_then(|record| planned_steps(folder, record));
        let planned = planned.filter(|planned| verdict.steps < *planned);
        let so_far = planned.map_or_else(String::new, |planned| {
            format!(" after {} of {planned} steps", verdict.steps)
        });
        verdict.headline = format!("{}{so_far}: {reason}", verdict.state.word());
        if planned.is_some() {
            let resume = format!("ibot train --resume {}", quoted(folder));
            let rolled_back =
                record.is_some_and(|record| record.options.on_anomaly == OnAnomaly::Rollback);
            let (why, command) = if has_diverged && rolled_back {
                let why = "Rollback did not help: train again, with a lower --learning-rate:";
                (why, "ibot train --help".to_owned())
            } else if has_diverged {
                let why = "Go back to before that, with half the learning rate:";
                (why, format!("{resume} --on-anomaly rollback"))
            } else {
                ("Resume the run:", resume)
            };
            verdict.next.push((why.to_owned(), command));
        }
        verdict.advise(folder, record);
        verdict
    }

    fn worsen(&mut self, state: State) {
        if state as u8 > self.state as u8 {
            self.state = state;
        }
    }

    /// Fills in state and findings; returns the reason for the state.
    fn judge(&mut self, log: &RunLog) -> String {
        let mut reason = self.judge_health(&log.metrics);
        if self.loss.is_some_and(|[_, last]| !last.is_finite()) {
            self.worsen(State::Bad);
            reason.get_or_insert_with(|| "the loss is no longer a number".to_owned());
        }
        if let Some(rank) = self.rank_me {
            self.findings.push(format!(
                "Feature rank (RankMe): about {rank:.1} dimensions carry the features."
            ));
            if rank < LOW_RANK {
                self.worsen(State::Attention);
                let images = "training collapsed, or the images are nearly equal";
                reason.get_or_insert_with(|| {
                    format!("features use about {rank:.1} dimensions; {images}")
                });
            }
        }
        if let Some([first, last]) = self.loss {
            let moved = if last < first { "fell" } else { "rose" };
            let sentence = format!("the loss {moved} from {first:.2} to {last:.2}");
            self.findings.push(format!("{}.", capitalized(&sentence)));
            if let Some(classifier) = Classifier::of(&log.metrics) {
                if !classifier.is_above_guessing() {
                    self.worsen(State::Attention);
                }
                let accuracy = classifier.to_string();
                self.findings.push(format!("{}.", capitalized(&accuracy)));
                reason.get_or_insert(accuracy);
            }
            // that the loss rises is no anomaly: the teacher's targets change too
            if self.knn.is_none() {
                reason.get_or_insert(sentence);
            }
        }
        let sentence = self.knn.map(|accuracy| self.judge_accuracy(accuracy));
        reason
            .or(sentence)
            .unwrap_or_else(|| "no step was recorded".to_owned())
    }

    /// The problem that the health checks found, if any.
    fn judge_health(&mut self, metrics: &[Value]) -> Option<String> {
        let checks: Vec<&Value> = metrics
            .iter()
            .filter(|line| line["health"].is_object())
            .collect();
        // "sick" in runs of the first versions
        let anomalies = |line: &Value| {
            let found = line.get("anomalies").or_else(|| line.get("sick"));
            let found = found.and_then(|found| Vec::<Anomaly>::deserialize(found).ok());
            found.unwrap_or_default()
        };
        let found = checks
            .iter()
            .flat_map(|line| anomalies(line).into_iter().map(|of| (&line["step"], of)));
        let mut seen: Vec<Anomaly> = Vec::new();
        for (step, anomaly) in found {
            if !seen.contains(&anomaly) {
                self.findings.push(format!("Step {step}: {anomaly}."));
                seen.push(anomaly);
            }
        }
        let number = counted(checks.len(), "health check");
        match (checks.len(), seen.first()) {
            (0, _) if Classifier::of(metrics).is_some() => {} // fine-tuning has none
            (0, _) => {
                self.findings.push("No health check was made.".to_owned());
                if self.knn.is_none() {
                    self.worsen(State::Unknown);
                }
            }
            (_, None) => self.findings.push(format!("{number} without a problem.")),
            (_, Some(_)) => {}
        }
        let last = checks.last().map_or_else(Vec::new, |line| anomalies(line));
        let name = |anomaly: &Anomaly| {
            anomaly
                .to_string()
                .split(':')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        if let Some(anomaly) = last.first() {
            self.worsen(State::Bad);
            return Some(name(anomaly));
        }
        seen.first().map(|anomaly| {
            self.worsen(State::Attention);
            format!("{}, from which the run recovered", name(anomaly))
        })
    }

    fn judge_accuracy(&mut self, accuracy: Accuracy) -> String {
        let Accuracy {
            before,
            after,
            images,
        } = accuracy;
        let after_percent = 100.0 * after;
        let of = format!("on {images} test images");
        let Some(before) = before else {
            let sentence = format!("k-NN accuracy is {after_percent:.1} %");
            self.findings.push(format!("{sentence} {of}."));
            return sentence;
        };
        let change = after - before;
        let error = |share: f64| share * (1.0 - share) / images.max(1) as f64;
        let is_certain = change.abs() > CERTAIN * (error(before) + error(after)).sqrt();
        let numbers = format!("from {:.1} % to {after_percent:.1} %", 100.0 * before);
        let sentence = match (is_certain, change > 0.0) {
            (true, true) => format!("k-NN accuracy rose {numbers}"),
            (true, false) => format!("k-NN accuracy fell {numbers}"),
            (false, _) => format!("k-NN accuracy did not change measurably ({numbers})"),
        };
        if !is_certain || change <= 0.0 {
            self.worsen(State::Attention);
        }
        self.findings.push(format!("{sentence} {of}."));
        sentence
    }

    fn advise(&mut self, folder: &Path, record: Option<&RunRecord>) {
        let file = teacher_to_use(folder);
        if !file.exists() {
            return; // it is written after the first epoch
        }
        let model = quoted(&file);
        let images = record.and_then(|record| record.data.first());
        let images = images.map_or(Path::new("IMAGES"), PathBuf::as_path);
        let data = quoted(images);
        match self.state {
            State::Bad => {
                let why = "Train again with the remedies above:".to_owned();
                let command = "ibot train --help".to_owned();
                // where that is not said already
                if self.next.iter().all(|(_, said)| *said != command) {
                    self.next.push((why, command));
                }
                return;
            }
            // else nothing shows that the images have classes, without which k-NN has nothing to predict
            State::Attention if self.knn.is_some() => {
                let val = record.and_then(|record| record.val.as_deref());
                let command = knn_command(images, val, &file);
                self.next
                    .push(("Look closer, with labeled images:".to_owned(), command));
            }
            State::Good | State::Unknown | State::Attention => {}
        }
        let mut add = |why: &str, command: String| self.next.push((why.to_owned(), command));
        add(
            "See which images are similar:",
            format!("ibot map {data} --model {model}"),
        );
        add(
            "Use the features elsewhere:",
            format!("ibot embed {data} --model {model} --out features.parquet"),
        );
        if self.knn.is_none() {
            let command = format!("ibot knn LABELED_IMAGES --model {model}");
            add("Measure the accuracy, if you have labels:", command);
        }
    }
}

/// Steps of the whole run; none if this version cannot read its settings.
fn planned_steps(folder: &Path, record: &RunRecord) -> Option<u64> {
    let config = record.config(folder).ok()?;
    let examples = match record.examples {
        0 => record.images,
        examples => examples,
    };
    let epoch = examples / config.batch_size.max(1);
    let steps = config.steps.unwrap_or(config.epochs.saturating_mul(epoch));
    u64::try_from(steps).ok()
}

/// The mean loss of the first and the last twentieth of the steps.
fn losses(metrics: &[Value]) -> Option<[f64; 2]> {
    // a loss that is not a number is null
    let values = metrics
        .iter()
        .map(|line| line["loss"].as_f64().unwrap_or(f64::NAN));
    let values: Vec<f64> = values.collect();
    let count = values.len().div_ceil(ENDS);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (count > 0).then(|| {
        [
            mean(&values[..count]),
            mean(&values[values.len() - count..]),
        ]
    })
}

fn accuracy(evaluations: &[Value]) -> Option<Accuracy> {
    let measured = || {
        let with_knn = evaluations.iter();
        with_knn.filter_map(|line| Some((line["step"].as_u64()?, line["knn"].as_f64()?, line)))
    };
    // what was measured before the first step says nothing about the run
    let (_, after, line) = measured().next_back().filter(|(step, ..)| *step > 0)?;
    let first = measured().next().filter(|(first, ..)| *first == 0);
    Some(Accuracy {
        before: first.map(|(_, knn, _)| knn),
        after,
        images: line["queries"].as_u64().unwrap_or(0),
    })
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
