//! Messages of the TOML parser about settings, in the words of those who write them.

use toml::Table;

use crate::train::settings_diff::flatten;

/// Types of numbers, and what they are called here.
const NUMBERS: [(&str, &str); 5] = [
    ("usize", "a whole number from 0"),
    ("u64", "a whole number from 0"),
    ("u32", "a whole number from 0"),
    ("f64", "a number"),
    ("f32", "a number"),
];

/// A message with words in place of types, and about an unknown key with the most similar one of any table: `known` has the keys
/// with a default, and `renamed` what keys were called and are called now.
pub(super) fn explained(message: &str, known: &Table, renamed: &[(&str, &str)]) -> String {
    let Some((before, names)) = message.split_once("unknown field `") else {
        return NUMBERS
            .iter()
            .fold(message.to_owned(), |message, (name, words)| {
                message.replace(&format!("expected {name}"), &format!("expected {words}"))
            });
    };
    // the unknown one, then those of its table, some of which have no default
    let mut names = names.split('`').step_by(2).map(str::to_owned);
    let unknown = names.next().unwrap_or_default();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let is_old = |name: &String| renamed.iter().any(|(old, _)| last(old) == *name);
    let mut keys: Vec<String> = names.filter(|name| !is_old(name)).collect();
    keys.extend(flatten(known).into_keys());
    let likeness = |key: &String| {
        let last = key.rsplit('.').next().unwrap_or_default();
        if last.contains(&unknown) {
            // who leaves out a word or the table means that key
            1.0 + unknown.len() as f64 / last.len().max(1) as f64
        } else {
            strsim::jaro_winkler(&unknown, last)
        }
    };
    let by_likeness = |a: &&String, b: &&String| likeness(a).total_cmp(&likeness(b));
    let nearest = keys.iter().max_by(by_likeness);
    let nearest = nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("{before}there is no setting {unknown:?}{nearest}")
}
