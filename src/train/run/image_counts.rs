//! How many images a run found, by class: a run keeps no names of images, and this tells where some came or went.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::data::{ImageFolder, ImageSource as _};
use crate::error::{counted, printable};

/// Number of classes up to which their images are counted: all counts are in `run.json`, which is written often.
const COUNTED: usize = 1000;

/// What is said of as many images as before.
pub(super) const OTHER_NAMES: &str = " (some names differ)";

/// Number of changed classes that are named; the others are counted.
const NAMED: usize = 5;

/// The images that a run validates on; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationImages {
    /// How many there are.
    pub images: usize,
    /// [`crate::data::ImageFolder::fingerprint`]; empty without any.
    pub fingerprint: String,
}

/// Images that a run found where it trains on images of its own, before some were held out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCounts {
    /// All of them.
    pub images: usize,
    /// Those of each class; empty where there are more than 1000 classes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, usize>,
}

impl ImageCounts {
    /// Of the images to train on, and those held out.
    pub(super) fn of(train: &ImageFolder, held_out: Option<&ImageFolder>) -> Self {
        let mut counts = Self::default();
        let names = train.classes();
        if names.len() <= COUNTED {
            counts.classes = names.iter().map(|name| (name.clone(), 0)).collect();
        }
        for folder in [Some(train), held_out].into_iter().flatten() {
            counts.images += folder.len();
            for label in folder.labels().into_iter().flatten() {
                let count = names
                    .get(label)
                    .and_then(|name| counts.classes.get_mut(name));
                if let Some(count) = count {
                    *count += 1;
                }
            }
        }
        counts
    }

    /// These and those of another run on other images, in words.
    pub(super) fn in_words(&self, before: &Self) -> [String; 2] {
        let names: BTreeSet<&String> = before.classes.keys().chain(self.classes.keys()).collect();
        let count = |of: &Self, name: &String| of.classes.get(name).copied().unwrap_or(0);
        let both = |name| (name, count(before, name), count(self, name));
        let changed = names.into_iter().map(both);
        let changed: Vec<(&String, usize, usize)> =
            changed.filter(|(_, before, now)| before != now).collect();
        let named = changed.iter().take(NAMED);
        let named =
            named.map(|(name, before, now)| format!("{}: {before} -> {now}", printable(name)));
        let named: Vec<String> = named.collect();
        let what = match changed.len().saturating_sub(NAMED) {
            _ if changed.is_empty() => OTHER_NAMES.to_owned(),
            0 => format!(" ({})", named.join(", ")),
            more => format!(" ({} and {more} more classes)", named.join(", ")),
        };
        let [images, now] = [before.images, self.images].map(|images| counted(images, "image"));
        [images, now + &what]
    }
}
