//! Several runs side by side.

use std::path::PathBuf;

use ibot::Result;

use super::run::Run;
use crate::duration::in_words;
use crate::page::{Page, escape};
use crate::verdict::{Accuracy, Verdict};

/// Adds which run is best, a table of all, and the settings in which they differ.
pub(super) fn add(page: &mut Page, runs: &[Run]) -> Result<()> {
    let mut order: Vec<&Run> = runs.iter().collect();
    // the best first; runs without k-NN last
    let accuracy = |run: &Run| run.verdict.knn.map_or(-1.0, |accuracy| accuracy.after);
    order.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
    let items: String = order.iter().map(|run| item(run)).collect();
    let (class, headline) = best(&order);
    let headline = escape(&headline);
    page.html(format_args!(
        "<section class=\"verdict {class}\"><h2>{headline}</h2><ul>{items}</ul></section>"
    ));
    let rows: Vec<Vec<String>> = order.iter().map(|run| comparison(run)).collect();
    page.table(&COMPARED, &rows);
    add_changes(page, runs)
}

/// A run and its verdict, in a list.
fn item(run: &Run) -> String {
    let Verdict {
        state, headline, ..
    } = &run.verdict;
    let (name, headline) = (escape(&run.log.name), escape(headline));
    format!(
        "<li class=\"{}\"><b>{name}</b>: <span class=\"state\">{headline}</span></li>",
        state.class()
    )
}

/// The verdict about several runs, the first of which has the highest accuracy.
fn best(order: &[&Run]) -> (&'static str, String) {
    let measured: Vec<(&Run, Accuracy)> = order
        .iter()
        .filter_map(|run| Some((*run, run.verdict.knn?)))
        .collect();
    let Some((run, Accuracy { after, images, .. })) = measured.first() else {
        return (
            "attention",
            "No run has a k-NN accuracy to compare".to_owned(),
        );
    };
    let is_same = |(other, accuracy): &(&Run, Accuracy)| {
        accuracy.images == *images && tested(run) == tested(other)
    };
    if !measured.iter().all(is_same) {
        let headline = "The k-NN accuracies are of different test images and do not compare";
        return ("attention", headline.to_owned());
    }
    let percent = 100.0 * after;
    let headline = format!(
        "{} is best: k-NN accuracy {percent:.1} % on {images} test images",
        run.log.name
    );
    ("good", headline)
}

/// The images that a run was tested on: its own folder of them, or those that were held out of a set and a seed, which the fingerprint
/// of the others tells apart.
fn tested(run: &Run) -> Option<(Option<&PathBuf>, Option<&String>)> {
    let record = run.record.as_ref()?;
    let held_out_of = record.val.is_none().then_some(&record.fingerprint);
    Some((record.val.as_ref(), held_out_of))
}

/// Head of the table of several runs.
const COMPARED: [&str; 7] = [
    "run",
    "steps",
    "time of all steps",
    "loss at the end",
    "k-NN before",
    "k-NN after",
    "feature rank",
];

fn comparison(run: &Run) -> Vec<String> {
    let verdict = &run.verdict;
    let knn = |share: Option<f64>| {
        share.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share))
    };
    vec![
        run.log.name.clone(),
        verdict.steps.to_string(),
        in_words(verdict.seconds),
        verdict
            .loss
            .map_or_else(String::new, |[_, last]| format!("{last:.3}")),
        knn(verdict.knn.and_then(|accuracy| accuracy.before)),
        knn(verdict.knn.map(|accuracy| accuracy.after)),
        verdict
            .rank_me
            .map_or_else(String::new, |rank| format!("{rank:.1}")),
    ]
}

/// The settings of the other runs that are not those of the first.
fn add_changes(page: &mut Page, runs: &[Run]) -> Result<()> {
    let Some((first, others)) = runs.split_first() else {
        return Ok(());
    };
    let Some(before) = &first.record else {
        return Ok(());
    };
    page.heading("Settings that differ");
    page.text(&format!(
        "Compared with {}. Settings that change only the speed are left out.",
        first.log.name
    ));
    for run in others {
        let Some(record) = &run.record else {
            continue;
        };
        let changes = record.setting_changes(before, &run.folder)?;
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let text = if changes.is_empty() {
            "the same settings".to_owned()
        } else {
            changes.join("\n")
        };
        page.html(format_args!(
            "<h3>{}</h3><pre>{}</pre>",
            escape(&run.log.name),
            escape(&text)
        ));
    }
    Ok(())
}
