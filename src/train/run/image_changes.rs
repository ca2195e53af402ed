//! Which images a run has that resumes another one, in words.

use std::path::PathBuf;

use crate::error::printable;
use crate::train::run::record::RunRecord;

/// What the images are called where a run holds out fewer of the same ones.
const HELD_OUT_UNLABELED: &str =
    "images (earlier versions held out images without a class too, and this one trains on them)";

/// Lines about the images of `now` that are others than those of the run `before`, and what to call them.
pub(super) fn changed_images(before: &RunRecord, now: &RunRecord) -> (&'static str, Vec<String>) {
    let changes = now.image_changes(before).into_iter();
    let mut changes: Vec<String> = changes.map(|change| change.to_string()).collect();
    let what = if !changes.is_empty() && holds_out_fewer(before, now) {
        HELD_OUT_UNLABELED
    } else {
        "images"
    };
    changes.extend(other_order(&before.data, &now.data));
    (what, changes)
}

/// Whether fewer of equally many images are held out, and others are found nowhere: so it is for a run of an earlier version whose
/// images have no class for the most part.
fn holds_out_fewer(before: &RunRecord, now: &RunRecord) -> bool {
    let held_out = |of: &RunRecord| {
        let validation = of.validation.as_ref().filter(|_| of.val.is_none());
        validation.map(|validation| validation.images)
    };
    let are_fewer = held_out(now)
        .zip(held_out(before))
        .is_some_and(|(now, before)| 0 < now && now < before);
    before.found.is_some() && before.found == now.found && are_fewer
}

/// The sources, where they are the same in another order: images of equal names in several of them would change places, which
/// [`crate::data::ImageFolder::fingerprint`] does not tell, as it knows no names of sources.
fn other_order(before: &[PathBuf], now: &[PathBuf]) -> Option<String> {
    let sorted = |sources: &[PathBuf]| {
        let mut sources = sources.to_vec();
        sources.sort();
        sources
    };
    let in_words = |sources: &[PathBuf]| sources.iter().map(printable).collect::<Vec<_>>();
    (before != now && sorted(before) == sorted(now)).then(|| {
        let [before, now] = [before, now].map(|sources| in_words(sources).join(", "));
        format!("order of the sources: {before} -> {now}")
    })
}
