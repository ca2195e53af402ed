//! The report of `ibot data` in words.

use std::fmt::Write as _;
use std::path::Path;

use ibot::data::{Inventory, LeftOut, Survey};
use ibot::error::{counted, printable};
use ibot::path_text::path_of_text;

/// Classes, files and groups that are listed; more are counted.
const LISTED: usize = 20;
/// Files of one group that are named.
const NAMED: usize = 4;

/// The whole report.
pub fn of(survey: &Survey, data: &Path, val: Option<&Path>) -> String {
    let mut text = String::new();
    if val.is_some() {
        line(&mut text, "data", &printable(data));
    }
    inventory(&mut text, &survey.data, survey.near);
    if let (Some(found), Some(path)) = (&survey.val, val) {
        line(&mut text, "\nval", &printable(path));
        inventory(&mut text, found, survey.near);
    }
    if let Some(shared) = &survey.shared {
        let equal = counted(shared.equal.len(), "image");
        let near = shared.near.as_ref().map(Vec::len);
        let near = near.map_or_else(String::new, |near| format!(", {near} that look alike"));
        text.push('\n');
        let what = format!("{equal} of data with the same bytes{near}");
        line(&mut text, "also in val", &what);
        pairs(&mut text, "equal", &shared.equal);
        pairs(
            &mut text,
            "alike",
            shared.near.as_deref().unwrap_or_default(),
        );
    }
    let (kept, all) = (survey.kept, counted(survey.data.images, "image"));
    let without = match survey.shared {
        Some(_) => "damaged ones, duplicates and those in val",
        None => "damaged ones and duplicates",
    };
    line(
        &mut text,
        "kept",
        &format!("{kept} of {all}, without {without}"),
    );
    text
}

fn line(text: &mut String, name: &str, what: &str) {
    let _ = writeln!(text, "{name:<18}{what}");
}

fn inventory(text: &mut String, found: &Inventory, near: Option<f64>) {
    line(text, "images", &found.images.to_string());
    let formats = found.formats.iter();
    let formats = listed(formats.map(|(kind, count)| format!("{kind} {count}")));
    line(text, "formats", &formats);
    if !found.parts.is_empty() {
        line(text, "parts", &found.parts.join(", "));
    }
    classes(text, found);
    for (name, [least, median, most]) in [
        ("shorter side", found.shorter_side),
        ("longer side", found.longer_side),
    ] {
        let range = format!("{least} to {most} pixels, median {median}");
        line(text, name, &range);
    }
    let sizes = found.sizes.iter().map(|size| match size.below {
        Some(below) => format!("{} to {}: {}", size.from, below - 1, size.images),
        None => format!("from {}: {}", size.from, size.images),
    });
    line(text, "by shorter side", &listed(sizes));
    if let Some(range) = &found.range {
        let count = found.more_than_8_bits;
        line(text, "more than 8 bits", &format!("{count}, range {range}"));
    }
    line(text, "other files", &found.other_files.to_string());
    line(text, "skipped", &found.skipped.len().to_string());
    files(text, found.skipped.iter());
    let damaged = found.damaged.as_ref();
    let damaged = damaged.map_or_else(not_looked_for, |damaged| damaged.len().to_string());
    line(text, "damaged", &damaged);
    files(text, found.damaged.iter().flatten());
    odd(text, found);
    let groups = &found.duplicates;
    let across = found.duplicates_across_classes;
    line(text, "duplicates", &copies(groups, across));
    group_lines(text, "equal", groups);
    match (&found.near_duplicates, near) {
        (Some(groups), Some(near)) => {
            let across = found.near_duplicates_across_classes;
            let copies = format!("{}, similarity from {near}", copies(groups, across));
            line(text, "near duplicates", &copies);
            group_lines(text, "alike", groups);
        }
        _ => line(text, "near duplicates", &not_looked_for()),
    }
}

fn not_looked_for() -> String {
    "not looked for".to_owned()
}

fn classes(text: &mut String, found: &Inventory) {
    let classes = found.classes.iter();
    let classes = listed(classes.map(|class| format!("{} {}", class.name, class.images)));
    let classes = match found.classes.len() {
        0 => "none".to_owned(),
        count => format!("{count}: {classes}"),
    };
    line(text, "classes", &classes);
    if !found.classes.is_empty() && found.unlabeled > 0 {
        line(text, "unlabeled", &found.unlabeled.to_string());
    }
}

fn odd(text: &mut String, found: &Inventory) {
    let odd = &found.odd;
    let uniform = odd.uniform.as_ref();
    let mut parts = vec![
        format!("{} narrow (over 4 to 1)", odd.narrow.len()),
        format!("{} tiny (below 32 pixels)", odd.tiny.len()),
    ];
    parts.extend(uniform.map(|uniform| format!("{} of nearly one color", uniform.len())));
    line(text, "odd", &parts.join(", "));
    let of = |what, paths: &[String]| {
        let names = first_of(paths);
        (!paths.is_empty()).then(|| format!("  {what}: {names}\n"))
    };
    text.extend(of("narrow", &odd.narrow));
    text.extend(of("tiny", &odd.tiny));
    text.extend(uniform.and_then(|uniform| of("one color", uniform)));
}

/// How many images there are more than groups, and how many of these are in several classes.
fn copies(groups: &[Vec<String>], across: usize) -> String {
    let copies: usize = groups.iter().map(|group| group.len() - 1).sum();
    match across {
        0 => copies.to_string(),
        across => format!("{copies}; {} in several classes", counted(across, "group")),
    }
}

fn group_lines(text: &mut String, what: &str, groups: &[Vec<String>]) {
    for group in groups.iter().take(LISTED) {
        let _ = writeln!(text, "  {what}: {}", first_of(group));
    }
    rest(text, groups.len());
}

fn pairs(text: &mut String, what: &str, pairs: &[[String; 2]]) {
    for pair in pairs.iter().take(LISTED) {
        let _ = writeln!(text, "  {what}: {}", first_of(pair));
    }
    rest(text, pairs.len());
}

/// The first files of a group.
fn first_of(paths: &[String]) -> String {
    let names = paths.iter().take(NAMED);
    let names: Vec<String> = names.map(|path| printable(path_of_text(path))).collect();
    match paths.len() - names.len() {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn files<'a>(text: &mut String, left_out: impl Iterator<Item = &'a LeftOut> + Clone) {
    for LeftOut { path, reason } in left_out.clone().take(LISTED) {
        let _ = writeln!(text, "  {}: {reason}", printable(path_of_text(path)));
    }
    rest(text, left_out.count());
}

fn rest(text: &mut String, count: usize) {
    if count > LISTED {
        let _ = writeln!(text, "  ... and {} more (--json lists all)", count - LISTED);
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let first = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
