//! Settings key by key, and those that differ.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// Values as TOML by dotted key, such as `optimizer.betas`.
pub(crate) type Flat = BTreeMap<String, String>;

/// A table and those in it as one.
pub(crate) fn flatten(table: &Table) -> Flat {
    fn add(prefix: &str, table: &Table, entries: &mut Flat) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => add(&format!("{key}."), inner, entries),
                value => {
                    entries.insert(key, value.to_string());
                }
            }
        }
    }
    let mut entries = Flat::new();
    add("", table, &mut entries);
    entries
}

/// The keys that differ, in order, each with both values; a value that one lacks is "absent".
pub(crate) fn differing(first: &Flat, second: &Flat) -> Vec<(String, [String; 2])> {
    let keys: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let differ = keys
        .into_iter()
        .filter(|key| first.get(*key) != second.get(*key));
    let both = differ.map(|key| {
        let value = |entries: &Flat| entries.get(key).map_or("absent", String::as_str).to_owned();
        (key.clone(), [value(first), value(second)])
    });
    both.collect()
}
