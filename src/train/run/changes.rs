//! In what a run differs from the one that it resumes.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result, counted, printable};
use crate::train::run::image_counts::{OTHER_NAMES, ValidationImages};
use crate::train::run::record::{NAME, RunRecord};
use crate::train::settings_diff::{Flat, differing, flatten};

/// Settings that may differ when a run is resumed, because they change no weight that is trained: `health_every` decides when
/// `on_anomaly` looks and, of short epochs, after which ones teachers are written and compared.
const FREE: [&str; 7] = [
    "workers",
    "health_every",
    "metrics_every",
    "license",
    "folder.cache",
    "folder.cache_mib",
    "folder.index",
];

/// What [`SettingChange`] calls the backend.
const BACKEND: &str = "backend";

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    key: String,
    before: String,
    now: String,
}

impl SettingChange {
    /// Whether it is that of the backend.
    pub fn is_backend(&self) -> bool {
        self.key == BACKEND
    }
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.before, self.now)
    }
}

impl RunRecord {
    /// The settings that differ from those of the run `before` and change its results.
    ///
    /// # Errors
    /// As [`RunRecord::config`].
    pub fn setting_changes(&self, before: &Self, folder: &Path) -> Result<Vec<SettingChange>> {
        // both with all defaults, so that a key which only one file spells out is not a change
        let entries = |record: &Self| -> Result<Flat> {
            let config = record.config(folder)?.to_toml()?;
            let table = toml::from_str(&config)
                .map_err(|error| Error::checkpoint(folder.join(NAME), error.to_string()))?;
            let mut entries = flatten(&table);
            entries.retain(|key, _| !FREE.contains(&key.as_str()));
            Ok(entries)
        };
        let changes = differing(&entries(before)?, &entries(self)?).into_iter();
        let backends = [&before.backend, &self.backend].map(String::clone);
        let backend = (backends[0] != backends[1]).then(|| (BACKEND.to_owned(), backends));
        let both = match (&before.pretrained, &self.pretrained) {
            (Some(before), Some(now)) if !now.is_same(before) => {
                Some([before, now].map(ToString::to_string))
            }
            (None, Some(now)) if before.began_without_weights(folder)? => {
                Some(["none".to_owned(), now.to_string()])
            }
            _ => None, // a run that is resumed need not name its weights again
        };
        let weights = both.map(|both| ("pretrained".to_owned(), both));
        let changes = changes.chain(backend).chain(weights);
        let changes = changes.map(|(key, [before, now])| SettingChange { key, before, now });
        Ok(changes.collect())
    }

    /// Whether it is sure that the run started from no weights: records of earlier versions, which lack `found`, may lack
    /// them too; and a run whose settings need weights had some.
    fn began_without_weights(&self, folder: &Path) -> Result<bool> {
        let knows = self.found.is_some();
        Ok(self.pretrained.is_none() && knows && !self.config(folder)?.method.pretrained)
    }

    /// Which images differ from those of the run `before`.
    pub fn image_changes(&self, before: &Self) -> Vec<SettingChange> {
        let has_other_val = self.has_other_validation(before);
        // images that are held out are of `data` too
        let has_other_held_out = has_other_val && self.val.is_none() && before.val.is_none();
        let has_other_data = has_other_held_out || before.fingerprint != self.fingerprint;
        let train = has_other_data.then(|| {
            let [before, now] = match (&before.found, &self.found) {
                (Some(before), Some(now)) => now.in_words(before),
                _ => [before, self].map(|record| counted(record.images, "image")),
            };
            SettingChange {
                key: format!("names of the images in {}", self.first_data()),
                before,
                now,
            }
        });
        let val = has_other_val.then(|| {
            let [before, mut now] = [before, self].map(Self::described_validation);
            if before == now {
                now += OTHER_NAMES;
            }
            let key = "images to validate on".to_owned();
            SettingChange { key, before, now }
        });
        train.into_iter().chain(val).collect()
    }

    /// Whether it validates on other images than the run `before`, as far as the records say.
    fn has_other_validation(&self, before: &Self) -> bool {
        match (&self.validation, &before.validation) {
            (Some(now), Some(before)) => now.fingerprint != before.fingerprint,
            _ => self.val.is_some() != before.val.is_some(),
        }
    }

    fn described_validation(&self) -> String {
        match (&self.validation, &self.val) {
            (Some(ValidationImages { images: 0, .. }), _) | (None, None) => "none".to_owned(),
            (Some(of), Some(val)) => format!("{} images in {}", of.images, printable(val)),
            (Some(of), None) => format!("{} held out", of.images),
            (None, Some(val)) => printable(val),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::run::image_counts::ImageCounts;
    use crate::train::run::options::{RunOptions, StartWeights};
    use crate::train::weights::PretrainedParts;

    fn record(config: &str) -> RunRecord {
        RunRecord {
            ibot: "0".into(),
            backend: "flex".into(),
            device: "a CPU".into(),
            data: vec!["photos".into()],
            val: None,
            images: 10,
            found: None,
            examples: 10,
            fingerprint: "a".into(),
            validation: Some(ValidationImages::default()),
            pretrained: None,
            options: RunOptions::default(),
            config: config.into(),
            ranks: 1,
            has_checkpoint: true,
            failure: None,
        }
    }

    #[test]
    fn changes_are_named_and_speed_is_none() {
        let folder = Path::new("run");
        let before = record("workers = 1\n[method]\nn_cls_prototypes = 8\n");
        let mut now =
            record("workers = 4\n[method]\nn_cls_prototypes = 8\npatch_loss_weight = 1.0\n");
        assert_eq!(now.setting_changes(&before, folder).unwrap(), []);
        assert_eq!(now.image_changes(&before), []);
        now.config = "steps = 9\n[folder]\nshorter_side = 448\ncache = \"x\"\n[method]\nn_cls_prototypes = 9\n".into();
        now.backend = "wgpu".into();
        (now.images, now.fingerprint) = (11, "b".into());
        let mut changes = now.setting_changes(&before, folder).unwrap();
        now.validation = Some(ValidationImages {
            images: 4,
            fingerprint: "v".into(),
        });
        changes.extend(now.image_changes(&before));
        let said: Vec<String> = changes.iter().map(SettingChange::to_string).collect();
        assert_eq!(
            said,
            [
                "folder.shorter_side: absent -> 448",
                "method.n_cls_prototypes: 8 -> 9",
                "steps: absent -> 9",
                "backend: flex -> wgpu",
                "names of the images in photos: 10 images -> 11 images",
                "images to validate on: none -> 4 held out",
            ]
        );
    }

    /// A request need not name the weights that the run has, but other ones change it, and so do ones where it had none.
    #[test]
    fn weights_are_a_change_where_the_run_is_known_to_have_had_others_or_none() {
        let weights = |hash: &str| -> StartWeights {
            let parts = serde_json::to_value(PretrainedParts::Backbone).unwrap();
            let json = serde_json::json!({"path": "/w", "hash": hash, "parts": parts});
            serde_json::from_value(json).unwrap()
        };
        let run = |config: &str, of: Option<&str>, is_of_now: bool| RunRecord {
            pretrained: of.map(weights),
            found: is_of_now.then(ImageCounts::default),
            ..record(config)
        };
        let needed = "[method]\npretrained = true\n";
        for (before, now, expected) in [
            (run("", None, true), None, None),
            (
                run("", None, true),
                Some("a"),
                Some("none -> backbone of /w"),
            ),
            // of an earlier version, which may not have noted its weights
            (run("", None, false), Some("a"), None),
            (run(needed, None, true), Some("a"), None),
            (run("", Some("a"), true), Some("a"), None),
            (run("", Some("a"), true), None, None),
            (
                run("", Some("a"), true),
                Some("b"),
                Some("backbone of /w -> backbone of /w"),
            ),
        ] {
            let now = run(&before.config, now, false);
            let changes = now.setting_changes(&before, Path::new("run")).unwrap();
            let said: Vec<String> = changes.iter().map(SettingChange::to_string).collect();
            let expected: Vec<String> = expected
                .iter()
                .map(|both| format!("pretrained: {both}"))
                .collect();
            assert_eq!(said, expected);
        }
    }
}
