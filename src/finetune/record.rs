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
//! # encoder vit_small_patch16_224     how an image becomes the model's input, from its file and the request
//! # input size 224
//! # part of the image margin
//! # interpolation bicubic
//! # normalization mean 0.485 0.456 0.406, std 0.229 0.224 0.225
//! # max_pixels 1000000000
//! seed = 0                          and all other settings
//! ```

use std::path::Path;

use serde::Serialize;
use toml::Table;

use crate::data::FolderConfig;
use crate::error::{Error, Result, printable};
use crate::files::model::Preprocessing;
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
/// Names of [`input`].
const INPUT: [&str; 6] = [
    "encoder",
    "input size",
    "part of the image",
    "interpolation",
    "normalization",
    "max_pixels",
];
/// Comments that are compared, beside [`INPUT`]. The held-out fraction is not: the images that it selects are.
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

/// How images become the input of a model with this encoder, and which of them are too large to be read: comments of [`record`].
/// The request may change them, and so may a `config.json` beside the weights, whose hash stays.
///
/// # Errors
/// [`Error::Config`] where they cannot be written.
pub(super) fn input(
    encoder: &str,
    preprocessing: &Preprocessing,
    folder: &FolderConfig,
) -> Result<[String; 6]> {
    let three = |[r, g, b]: [f32; 3]| format!("{r} {g} {b}");
    let (mean, std) = (three(preprocessing.mean), three(preprocessing.std));
    let values = [
        printable(encoder),
        preprocessing.image_size.to_string(),
        as_in_files(preprocessing.fit)?,
        as_in_files(preprocessing.interpolation)?,
        format!("mean {mean}, std {std}"),
        folder.max_pixels.to_string(),
    ];
    Ok(std::array::from_fn(|at| {
        format!("{} {}", INPUT[at], values[at])
    }))
}

/// A value as model files have it, which stays in later versions, without the marks of JSON: `shorter 256`.
fn as_in_files(value: impl Serialize) -> Result<String> {
    let text = serde_json::to_string(&value).map_err(unwritable)?;
    Ok(text.replace(['"', '{', '}'], "").replace(':', " "))
}

fn unwritable(error: impl ToString) -> Error {
    Error::config("config", "unwritable", error.to_string())
}

/// `config.toml` of a run, whose model file has the hash `hash`, and its images this `input`.
///
/// # Errors
/// [`Error::Io`] where the current folder is gone.
pub(super) fn record(
    request: &FinetuneRequest,
    hash: &str,
    images: &LabeledImages,
    input: &[String],
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
    let comments = comments.iter().chain(input);
    let comments: String = comments.map(|line| format!("# {line}\n")).collect();
    let settings = toml::to_string(&request.config).map_err(unwritable)?;
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
            later if before == "absent" && (later == RANGE || INPUT.contains(&later)) => {}
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
            .chain(&INPUT)
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
    use crate::data::{AugmentConfig, EvalFit, augment::Interpolation};

    const RECORD: &str = "# ibot 0.1.0\n# model /a/t.safetensors, BLAKE3 aa\n# data /photos\n# images to train on bb\n\
         # val /other\n# images to test on cc\n# range of values auto\n# backend flex\n\
         # encoder vit_tiny_patch16_224\n# input size 224\n# part of the image margin\n# interpolation bicubic\n\
         # normalization mean 0.5 0.5 0.5, std 0.5 0.5 0.5\n# max_pixels 9\nepochs = 3\nworkers = 1\n";

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
        let of_input = |line: &&str| {
            !INPUT
                .iter()
                .any(|name| line.contains(&format!("# {name} ")))
        };
        let old: Vec<&str> = RECORD.lines().filter(of_input).collect();
        assert_eq!(old.len() + INPUT.len(), RECORD.lines().count());
        let found = changes(Path::new("config.toml"), &old.join("\n"), RECORD).unwrap();
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
                "tiny_patch16",
                "tiny_patch8",
                "encoder",
                "vit_tiny_patch16_224",
                "vit_tiny_patch8_224",
            ),
            ("size 224", "size 384", "input size", "224", "384"),
            (
                "image margin",
                "image stretch",
                "part of the image",
                "margin",
                "stretch",
            ),
            (
                "bicubic",
                "bilinear",
                "interpolation",
                "bicubic",
                "bilinear",
            ),
            (
                "std 0.5",
                "std 0.25",
                "normalization",
                "mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
                "mean 0.5 0.5 0.5, std 0.25 0.5 0.5",
            ),
            ("pixels 9", "pixels 8", "max_pixels", "9", "8"),
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

    /// What is written for an input is what is compared: each value has its own line.
    #[test]
    fn another_input_is_another_run_value_by_value() {
        let base = Preprocessing::from_augment(&AugmentConfig::default());
        let folder = FolderConfig::default();
        let lines = |encoder: &str, of: &Preprocessing, folder: &FolderConfig| {
            let lines = input(encoder, of, folder).unwrap();
            lines.map(|line| format!("# {line}\n")).concat()
        };
        let before = lines("a", &base, &folder);
        let change = |change: fn(&mut Preprocessing)| {
            let mut of = base.clone();
            change(&mut of);
            lines("a", &of, &folder)
        };
        let smaller = FolderConfig {
            max_pixels: 8,
            ..folder.clone()
        };
        let others = [
            lines("b", &base, &folder),
            change(|of| of.image_size = 384),
            change(|of| of.fit = EvalFit::Shorter(256)),
            change(|of| of.interpolation = Interpolation::Bilinear),
            change(|of| of.std[2] = 0.226),
            lines("a", &base, &smaller),
        ];
        for (name, other) in INPUT.iter().zip(others) {
            let found = changes(Path::new("config.toml"), &before, &other).unwrap();
            let keys: Vec<&String> = found.others.iter().map(|(key, _)| key).collect();
            assert_eq!(keys, [name], "{other}");
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
