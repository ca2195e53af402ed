//! Which kernels of this crate ran: noted at the launch, for reports.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// The launches of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Launched {
    /// Its file in `shaders/`, without the ending.
    pub name: &'static str,
    /// Lanes of a workgroup.
    pub lanes: u32,
    /// How often it was launched.
    pub launches: usize,
    /// Workgroups of the largest launch.
    #[serde(rename = "most_workgroups")]
    pub max_workgroups: usize,
    /// What filled its template, one text for each variant.
    pub variants: BTreeSet<String>,
    /// Fields of the info of each variant, for the test that compares them with the shader's.
    #[serde(skip)]
    pub infos: BTreeMap<String, Vec<&'static str>>,
    /// How often it was launched with each info, field by field, in 32 bits each.
    #[serde(skip)]
    pub sizes: BTreeMap<Vec<(&'static str, u32)>, usize>,
}

impl Launched {
    /// Adds the launches of `more` to `all`, which is in the order of names and lanes.
    pub fn merge(all: &mut Vec<Self>, more: &[Self]) {
        for launched in more {
            let key = (launched.name, launched.lanes);
            match all.binary_search_by_key(&key, |known| (known.name, known.lanes)) {
                Ok(at) => all[at].add(launched.clone()),
                Err(at) => all.insert(at, launched.clone()),
            }
        }
    }

    fn add(&mut self, more: Self) {
        self.launches += more.launches;
        self.max_workgroups = self.max_workgroups.max(more.max_workgroups);
        self.variants.extend(more.variants);
        self.infos.extend(more.infos);
        for (info, launches) in more.sizes {
            *self.sizes.entry(info).or_default() += launches;
        }
    }
}

thread_local! {
    /// `Some` while [`observe`] runs on this thread, by name and lanes.
    static SEEN: RefCell<Option<BTreeMap<(&'static str, u32), Launched>>> = const { RefCell::new(None) };
}

/// Runs `work` and says which kernels of this crate it launched from this thread, in the order of their names; burn's own
/// kernels are not seen.
pub fn observe<R>(work: impl FnOnce() -> R) -> (R, Vec<Launched>) {
    let outer = SEEN.replace(Some(BTreeMap::new()));
    let result = work();
    let seen = SEEN.replace(outer).unwrap_or_default();
    (result, seen.into_values().collect())
}

/// To be called at each launch; costs a look at a thread's own variable while nobody observes.
pub(super) fn note(launched: impl FnOnce() -> Launched) {
    SEEN.with_borrow_mut(|seen| {
        let Some(seen) = seen else {
            return;
        };
        let launched = launched();
        match seen.get_mut(&(launched.name, launched.lanes)) {
            Some(known) => known.add(launched),
            None => drop(seen.insert((launched.name, launched.lanes), launched)),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note_copy(lanes: u32, rounds: usize, workgroups: usize) {
        note(|| Launched {
            name: "copy",
            lanes,
            launches: 1,
            max_workgroups: workgroups,
            variants: BTreeSet::from([format!("rounds={rounds}")]),
            infos: BTreeMap::new(),
            sizes: BTreeMap::from([(vec![("rounds", rounds as u32)], 1)]),
        });
    }

    #[test]
    fn launches_are_noted_by_kernel_while_somebody_observes() {
        note_copy(8, 1, 7);
        let ((), seen) = observe(|| {
            note_copy(64, 4, 3);
            note_copy(64, 8, 70_000);
            note_copy(8, 1, 1);
            note_copy(8, 1, 1);
        });
        let found: Vec<_> = seen
            .iter()
            .map(|l| (l.name, l.lanes, l.launches, l.max_workgroups))
            .collect();
        assert_eq!(found, [("copy", 8, 2, 1), ("copy", 64, 2, 70_000)]);
        let sizes: Vec<_> = seen.iter().flat_map(|launched| &launched.sizes).collect();
        let expected = [(1, 2), (4, 1), (8, 1)].map(|(rounds, n)| (vec![("rounds", rounds)], n));
        assert!(
            sizes
                .into_iter()
                .eq(expected.iter().map(|(info, n)| (info, n)))
        );
        let variants: Vec<_> = seen[1].variants.iter().map(String::as_str).collect();
        assert_eq!(variants, ["rounds=4", "rounds=8"]);
        assert!(observe(|| ()).1.is_empty());
    }

    #[test]
    fn reports_are_merged_in_order() {
        let (_, first) = observe(|| note_copy(64, 4, 3));
        let (_, second) = observe(|| {
            note_copy(64, 8, 2);
            note_copy(8, 1, 1);
        });
        let mut all = first;
        Launched::merge(&mut all, &second);
        let found: Vec<_> = all.iter().map(|l| (l.lanes, l.launches)).collect();
        assert_eq!(found, [(8, 1), (64, 2)]);
        assert_eq!(all[1].max_workgroups, 3);
    }
}
