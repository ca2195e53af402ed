//! The best teacher of a run: which one it is, and what was gained over the weights that the run started from.
//!
//! A run that resumes needs nothing else: the file says of which step it is, `evaluations.jsonl` what that teacher was worth.

use std::path::{Path, PathBuf};

use crate::error::{Result, if_there, printable};
use crate::files::model::read_card;
use crate::train::run::evaluation::Evaluation;
use crate::train::run::lines::read_lines;
use crate::train::run::observer::Observer;
use crate::train::run::work::EVALUATIONS;

/// The best teacher.
pub(super) const BEST: &str = "best.safetensors";

/// The file of the best teacher of a run folder; none of a run without `keep_best`.
pub fn best_teacher(run: &Path) -> Option<PathBuf> {
    Some(run.join(BEST)).filter(|best| best.exists())
}

/// Removes the best teacher of an earlier run.
///
/// # Errors
/// [`crate::Error::Io`].
pub(super) fn remove_best(folder: &Path) -> Result<()> {
    let file = folder.join(BEST);
    if_there(&file, std::fs::remove_file(&file))?;
    Ok(())
}

/// Keeps the best teacher under another name, if it is of a step after `after`, where teachers of now cannot be compared with it;
/// `why` says so.
///
/// # Errors
/// [`crate::Error::Io`], and a file that cannot be read.
pub(super) fn set_best_aside(
    folder: &Path,
    after: Option<usize>,
    why: &str,
    observer: &mut dyn Observer,
) -> Result<()> {
    let best = folder.join(BEST);
    let card = if best.exists() {
        read_card(&best)?
    } else {
        None
    };
    let Some(step) = card.map(|card| card.step).filter(|of| Some(*of) > after) else {
        return Ok(());
    };
    let name = |number: usize| match number {
        1 => format!("best-of-step-{step}.safetensors"),
        _ => format!("best-of-step-{step}-{number}.safetensors"),
    };
    let mut names = (1..).map(|number| folder.join(name(number)));
    let Some(aside) = names.find(|aside| !aside.exists()) else {
        return Ok(());
    };
    if_there(&best, std::fs::rename(&best, &aside))?;
    observer.note(&format!(
        "{why}: later teachers cannot be compared with the best one so far, of step {step}; it is kept as {}",
        printable(aside)
    ));
    Ok(())
}

/// The step of the best teacher; none where none is kept.
fn kept_step(folder: &Path) -> Result<Option<usize>> {
    let best = best_teacher(folder);
    let card = best.map(|best| read_card(&best)).transpose()?.flatten();
    Ok(card.map(|card| card.step))
}

/// Standard deviations within which 95 % of normal values are.
const OF_95_PERCENT: f64 = 1.96;

/// How a teacher compares with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is above all that were measured on the same images.
    Best,
    /// It is the first one that is measured on its images, or by its measure.
    FirstOnTheseImages,
    NotBest,
}

/// What teachers are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Accuracy on labeled validation images.
    Knn,
    /// Directions that the features use, which needs no labels.
    RankMe,
}

/// How the teachers of a run are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Comparison {
    pub measure: Measure,
    /// Whether the run started from trained weights. Without such weights step 0 is an untrained network, which is never kept, even if it
    /// scores best.
    pub is_trained_at_start: bool,
}

impl Measure {
    /// Larger is better; none if it was not measured.
    fn of(self, evaluation: &Evaluation) -> Option<f64> {
        match self {
            Self::Knn => evaluation.knn,
            Self::RankMe => evaluation.rank_me,
        }
    }

    /// The first with the largest value.
    fn best(self, evaluations: &[Evaluation]) -> Option<&Evaluation> {
        let measured = evaluations.iter().filter(|line| self.of(line).is_some());
        measured.reduce(|best, next| {
            if self.of(next) > self.of(best) {
                next
            } else {
                best
            }
        })
    }
}

impl Comparison {
    fn is_candidate(self, evaluation: &Evaluation) -> bool {
        self.is_trained_at_start || evaluation.step > 0
    }

    /// How the teacher of `evaluation` compares with those of the steps before that are kept, or are not better than a kept one:
    /// with none where no file is kept, as before the first, or where a rollback discarded it.
    ///
    /// # Errors
    /// Those of reading the folder's files.
    pub fn standing(self, folder: &Path, evaluation: &Evaluation) -> Result<Standing> {
        if !self.is_candidate(evaluation) {
            return Ok(Standing::NotBest);
        }
        let mut before = read_lines::<Evaluation>(&folder.join(EVALUATIONS))?;
        before.retain(|line| line.step < evaluation.step && self.is_candidate(line));
        let are_there = !before.is_empty();
        before.retain(|line| line.is_comparable(evaluation));
        let measure = self.measure;
        let now = measure.of(evaluation);
        let kept = kept_step(folder)?;
        if now.is_some() && !self.is_trained_at_start && kept == Some(0) {
            return Ok(Standing::Best); // an earlier version kept the untrained network
        }
        // what is kept is the best up to its step, but after a rollback, which leaves lines of better ones without their weights;
        // a file of this step or a later one is of a run that was cut short
        before.retain(|line| kept.is_some_and(|kept| line.step >= kept || kept >= evaluation.step));
        let best = measure.best(&before).and_then(|best| measure.of(best));
        let is_above = now.is_some() && now > best;
        Ok(if is_above && best.is_none() && are_there {
            Standing::FirstOnTheseImages
        } else if is_above {
            Standing::Best
        } else {
            Standing::NotBest
        })
    }

    /// Whether the teacher of `step` was measured in a way that later ones can be compared with: on the images with this
    /// fingerprint.
    ///
    /// # Errors
    /// Those of reading the folder's files.
    pub fn has_measured(self, folder: &Path, step: usize, images: &str) -> Result<bool> {
        let now = Evaluation {
            fingerprint: images.to_owned(),
            ..Evaluation::default()
        };
        let lines = read_lines::<Evaluation>(&folder.join(EVALUATIONS))?;
        Ok(lines.iter().any(|line| {
            let is_known = self.is_candidate(line) && self.measure.of(line).is_some();
            line.step == step && is_known && line.is_comparable(&now)
        }))
    }

    /// What the best teacher has over the weights that the run started from, in words; none if nothing was measured.
    ///
    /// # Errors
    /// Those of reading the folder's files.
    pub fn gain(self, folder: &Path) -> Result<Option<String>> {
        let mut evaluations = read_lines::<Evaluation>(&folder.join(EVALUATIONS))?;
        if let Some(last) = evaluations.last().cloned() {
            evaluations.retain(|line| line.is_comparable(&last));
        }
        let measure = self.measure;
        let candidates: Vec<Evaluation> = (evaluations.iter())
            .filter(|line| self.is_candidate(line))
            .cloned()
            .collect();
        let Some(best) = measure.best(&candidates) else {
            return Ok(None);
        };
        let file = folder.join(BEST);
        let kept = kept_step(folder)?;
        let (step, file) = (best.step, printable(file));
        if kept != Some(step) {
            // evaluated before `keep_best` was set, or the file was removed, or a rollback discarded the one that took its place
            let start = match step {
                0 => ", the weights that the run started from",
                _ => "",
            };
            let lost =
                format!("the best teacher was that of step {step}{start}, which is not kept");
            return Ok(Some(match kept {
                Some(kept) => {
                    format!("{lost}; the best that is kept is that of step {kept}, {file}")
                }
                None => format!("{lost} as {file}"),
            }));
        }
        let before = evaluations.first().filter(|before| before.step == 0);
        let pair = before.and_then(|before| measure.of(before));
        let pair = pair.zip(measure.of(best));
        let Some((before, now)) = pair else {
            return Ok(Some(format!(
                "best teacher: that of step {step}, {file}; the weights before training were not evaluated"
            )));
        };
        let step = (step > 0).then_some(step);
        Ok(Some(match measure {
            Measure::Knn => knn_gain(before, now, best.queries.unwrap_or(0), step, &file),
            Measure::RankMe => rank_gain(before, now, best.sample, step, &file),
        }))
    }
}

/// `step` is none where nothing was better than the weights before training.
fn knn_gain(before: f64, now: f64, queries: usize, step: Option<usize>, file: &str) -> String {
    let [before_percent, now_percent] = [before, now].map(|accuracy| 100.0 * accuracy);
    let Some(step) = step else {
        return format!(
            "nothing was gained: no teacher was above the {before_percent:.1} % k-NN accuracy of the weights that the run \
             started from, on {queries} validation images; use those weights, kept as {file}"
        );
    };
    if now <= before {
        return format!(
            "nothing was gained: k-NN accuracy {before_percent:.1} % of the untrained network, {now_percent:.1} % of the best teacher, that of step \
             {step}, {file}, on {queries} validation images"
        );
    }
    // of two independent samples; both teachers see the same images, which makes the true bound smaller
    let variance = |accuracy: f64| accuracy * (1.0 - accuracy) / queries.max(1) as f64;
    let chance = 100.0 * OF_95_PERCENT * (variance(before) + variance(now)).sqrt();
    let gain = now_percent - before_percent;
    let trust = if gain > chance {
        format!("more than the {chance:.1} points that chance may give")
    } else {
        format!("which may be chance: up to {chance:.1} points on so few images")
    };
    format!(
        "gained {gain:.1} points: k-NN accuracy {before_percent:.1} % -> {now_percent:.1} % on {queries} validation images, \
         {trust}; best teacher: that of step {step}, {file}"
    )
}

/// `step` is none where nothing was better than the weights before training.
fn rank_gain(before: f64, now: f64, sample: usize, step: Option<usize>, file: &str) -> String {
    const TO_KNOW: &str = "only labeled images can tell whether the features are better: give some as `val` or `held_out`";
    let [shown, shown_now] = [before, now].map(|rank| format!("{rank:.1}"));
    match step {
        Some(step) if now < before => format!(
            "no gain was seen: RankMe {shown} of the untrained network, {shown_now} of the teacher of step {step}, the highest of \
             all, {file}, on {sample} images; {TO_KNOW}"
        ),
        Some(step) if shown == shown_now => format!(
            "no gain was seen: RankMe stayed at {shown} on {sample} images; {TO_KNOW}; highest RankMe: the teacher of step \
             {step}, {file}"
        ),
        Some(step) => format!(
            "RankMe {shown} -> {shown_now} on {sample} images: the features use more directions, which is a hint and no \
             proof of a gain; {TO_KNOW}; highest RankMe: the teacher of step {step}, {file}"
        ),
        None => format!(
            "no gain was seen: no teacher was above the RankMe of {shown} of the weights that the run started from, on \
             {sample} images; those are kept as {file}; {TO_KNOW}"
        ),
    }
}

#[cfg(test)]
mod tests;
