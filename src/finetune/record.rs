//! What makes two runs the same: settings, model and images, as `config.toml` has them.
//!
//! ```text
//! # ibot 0.1.0
//! # model /models/teacher.safetensors, BLAKE3 5f0c...
//! # data /photos
//! # images to train on 9a41...      hash of their names
//! # held out 0.2                    or: val /other
//! # images to test on 77e2...
//! # range of values auto
//! # backend wgpu
//! seed = 0                          and all other settings
//! ```

use std::path::Path;

use toml::Table;

use crate::error::{Error, Result, printable};
use crate::finetune::config::FinetuneConfig;
use crate::finetune::labeled::{HeldOut, LabeledImages};
use crate::finetune::setup::FinetuneRequest;
use crate::path_text::absolute;
use crate::train::{Flat, differing, flatten};

const MODEL: &str = "model";
const DATA: &str = "data";
const VAL: &str = "val";
const RANGE: &str = "range of values";
const BACKEND: &str = "backend";
/// Comments that are compared. The held-out fraction is not: the images that it selects are.
const COMPARED: [&str; 7] = [
    MODEL,
    DATA,
    "images to train on",
    VAL,
    "images to test on",
    RANGE,
    BACKEND,
];
/// Settings that change no weight.
const FREE: [&str; 1] = ["workers"];

/// `config.toml` of a run, whose model file has the hash `hash`.
///
/// # Errors
/// [`Error::Io`] where the current folder is gone.
pub(super) fn record(
    request: &FinetuneRequest,
    hash: &str,
    images: &LabeledImages,
) -> Result<String> {
    let held_out = match &request.held_out {
        HeldOut::Folder(path) => HeldOut::Folder(absolute(path)?),
        share @ HeldOut::Share(_) => share.clone(),
    };
    let comments = [
        format!("ibot {}", env!("CARGO_PKG_VERSION")),
        format!(
            "{MODEL} {}, BLAKE3 {hash}",
            printable(absolute(&request.model)?)
        ),
        format!("{DATA} {}", printable(absolute(&request.data)?)),
        format!("images to train on {}", images.train.fingerprint()),
        held_out.to_string(),
        format!("images to test on {}", images.held_out.fingerprint()),
        format!("{RANGE} {}", images.train.range()),
        format!("{BACKEND} {}", request.selected.backend()),
    ];
    let comments: String = comments.iter().map(|line| format!("# {line}\n")).collect();
    let settings = toml::to_string(&request.config)
        .map_err(|error| Error::config("config", "unwritable", error.to_string()))?;
    Ok(comments + &settings)
}

/// In what a run differs from that of before in its folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// What makes it another run: keys with both values.
    pub others: Vec<(String, [String; 2])>,
    /// The backends, which differ by rounding alone.
    pub backend: Option<[String; 2]>,
}

/// Compares two texts of [`record`].
///
/// # Errors
/// [`Error::Checkpoint`] with `file`, that of `before`, where this version cannot read it.
pub(super) fn changes(file: &Path, before: &str, now: &str) -> Result<Changes> {
    let mut changes = Changes::default();
    for (key, [before, now]) in differing(&facts(file, before)?, &facts(file, now)?) {
        match key.as_str() {
            BACKEND => changes.backend = Some([before, now]),
            MODEL if hash(&before) == hash(&now) => {}
            DATA | VAL if is_same_place(&before, &now) => {}
            // not written by earlier versions
            RANGE if before == "absent" => {}
            _ => changes.others.push((key, [before, now])),
        }
    }
    Ok(changes)
}

/// Settings, and what is compared beside them.
fn facts(file: &Path, text: &str) -> Result<Flat> {
    let unreadable = |error: String| {
        let reason = format!(
            "this version cannot read its settings: {error}; choose another folder with `out`"
        );
        Error::checkpoint(file, reason)
    };
    // with all defaults, so that a key which only one text spells out is not a change
    let config: FinetuneConfig =
        toml::from_str(text).map_err(|error| unreadable(error.message().to_owned()))?;
    let table = Table::try_from(config).map_err(|error| unreadable(error.to_string()))?;
    let mut facts = flatten(&table);
    facts.retain(|key, _| !FREE.contains(&key.as_str()));
    let comments = text.lines().filter_map(|line| line.strip_prefix("# "));
    for comment in comments {
        let value = |key: &str| comment.strip_prefix(key)?.strip_prefix(' ');
        let named = COMPARED
            .iter()
            .find_map(|key| Some((*key, value(key)?.to_owned())));
        facts.extend(named.map(|(key, value)| (key.to_owned(), value)));
    }
    Ok(facts)
}

/// The hash at the end of a model's comment.
fn hash(model: &str) -> Option<&str> {
    model.rsplit_once(' ').map(|(_, hash)| hash)
}

/// Whether both paths lead to one folder, through a link or from the current folder, as in records of earlier versions.
fn is_same_place(before: &str, now: &str) -> bool {
    let real = |path: &str| Path::new(path).canonicalize().ok();
    real(before).is_some_and(|before| Some(before) == real(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "# ibot 0.1.0\n# model /a/t.safetensors, BLAKE3 aa\n# data /photos\n# images to train on bb\n\
         # val /other\n# images to test on cc\n# range of values auto\n# backend flex\nepochs = 3\nworkers = 1\n";

    fn of(now: &str) -> Changes {
        changes(Path::new("config.toml"), RECORD, now).unwrap()
    }

    #[test]
    fn what_changes_no_weight_is_the_same_run() {
        for (before, now) in [
            ("ibot 0.1.0", "ibot 0.2.0"),
            ("/a/t.safe", "/b/x y.safe"),
            ("workers = 1", "workers = 8"),
            ("workers = 1", "seed = 0"), // its default
        ] {
            let now = RECORD.replace(before, now);
            assert_ne!(now, RECORD, "{before}");
            assert_eq!(of(&now), Changes::default(), "{before}");
        }
        let old = RECORD.replace("# range of values auto\n", "");
        let found = changes(Path::new("config.toml"), &old, RECORD).unwrap();
        assert_eq!(found, Changes::default());
        let found = of(&RECORD.replace("flex", "wgpu"));
        assert_eq!(found.others, []);
        assert_eq!(found.backend, Some(["flex".into(), "wgpu".into()]));
    }

    #[test]
    fn what_makes_another_run_is_named_with_both_values() {
        for (from, to, key, before, now) in [
            ("epochs = 3", "epochs = 4", "epochs", "3", "4"),
            ("epochs = 3\n", "", "epochs", "3", "100"),
            ("/photos", "/photos2", "data", "/photos", "/photos2"),
            ("val /other", "held out 0.2", "val", "/other", "absent"),
            ("on bb", "on b", "images to train on", "bb", "b"),
            ("on cc", "on c", "images to test on", "cc", "c"),
            ("auto", "full", "range of values", "auto", "full"),
            (
                "BLAKE3 aa",
                "BLAKE3 ab",
                "model",
                "/a/t.safetensors, BLAKE3 aa",
                "/a/t.safetensors, BLAKE3 ab",
            ),
        ] {
            let expected = (key.to_owned(), [before.to_owned(), now.to_owned()]);
            assert_eq!(of(&RECORD.replace(from, to)).others, [expected]);
        }
    }

    #[test]
    fn another_path_to_the_same_images_is_the_same_run() {
        let here = std::env::current_dir().unwrap();
        let with = |data: &str| RECORD.replace("/photos", data);
        let (absolute, relative) = (with(here.to_str().unwrap()), with("."));
        let found = changes(Path::new("config.toml"), &relative, &absolute).unwrap();
        assert_eq!(found, Changes::default());
    }

    #[test]
    fn settings_of_another_version_name_the_file() {
        let other = RECORD.to_owned() + "mixup = 0.8\n";
        let error = changes(Path::new("run/config.toml"), &other, RECORD).unwrap_err();
        let said = error.to_string();
        for part in ["config.toml", "mixup", "`out`"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}
