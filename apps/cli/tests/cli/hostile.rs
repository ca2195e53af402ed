//! Files that somebody else wrote: settings, weights and checkpoints with bytes changed, cut, moved and made up. Nothing may
//! panic, and what is refused is refused with the file's name.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ibot::files::checkpoint::{Checkpoint, Store};
use ibot::files::read_safetensors;
use ibot::random::{Random, Stream};
use ibot::train::presets::preset_names;
use ibot::train::{RunConfig, RunRecord, Schedule};

use crate::{Scratch, ibot};

/// Rounds of each loop; a few seconds on two cores.
const ROUNDS: u64 = 3_000;

/// Values that numbers overflow or vanish by.
const HOSTILE: [&str; 12] = [
    "0",
    "-1",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "9223372036854775807",
    "4294967296",
    "1e-320",
    "[]",
    "\"x\"",
    "true",
];

/// Runs `check` on seeded generators; a failure names its seed.
fn fuzz(name: &str, mut check: impl FnMut(&mut Random)) {
    let seed = u64::from(std::process::id());
    for round in 0..ROUNDS {
        let mut random = Random::new(seed, round, 0, Stream::Shuffle);
        let result = catch_unwind(AssertUnwindSafe(|| check(&mut random)));
        assert!(result.is_ok(), "{name}: seed {seed}, round {round}");
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + random.below(32)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            _ => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(if random.chance(0.5) { 0xff } else { 0 });
            }
        }
    }
}

#[test]
fn settings() {
    let recipes: Vec<String> = preset_names()
        .map(|name| {
            let path = format!(
                "{}/../../examples/recipes/{name}.toml",
                env!("CARGO_MANIFEST_DIR")
            );
            fs::read_to_string(path).unwrap()
        })
        .chain([RunConfig::default().to_toml().unwrap()])
        .collect();
    let mut accepted = 0;
    fuzz("settings", |random| {
        let text = &recipes[random.below(recipes.len())];
        let text = if random.chance(0.7) {
            // another value for a key
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            for _ in 0..=random.below(3) {
                let at = random.below(lines.len());
                if let Some((key, _)) = lines[at].split_once(" = ") {
                    lines[at] = format!("{key} = {}", HOSTILE[random.below(HOSTILE.len())]);
                }
            }
            lines.join("\n")
        } else {
            let mut bytes = text.clone().into_bytes();
            mutate(&mut bytes, random);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let Ok(config) = RunConfig::default().merged_with_toml(&text) else {
            return;
        };
        let Ok(config) = config.resolved() else {
            return;
        };
        // what is accepted can be computed with
        accepted += 1;
        let backbone = config.method.backbone().unwrap();
        assert!(backbone.patches().checked_mul(backbone.embed_dim).is_some());
        let steps = config.steps.unwrap_or(config.epochs.saturating_mul(10));
        let schedule = Schedule::new(&config.schedule, steps, 10, config.batch_size);
        for step in [0, steps / 2, steps - 1] {
            let rates = schedule.rates(&config.method, config.optimizer.weight_decay, step);
            assert!(rates.learning_rate.is_finite() && rates.ema_decay.is_finite());
            assert!(rates.temperature_teacher > 0.0);
        }
        assert!(
            RunConfig::default()
                .merged_with_toml(&config.to_toml().unwrap())
                .is_ok()
        );
    });
    assert!(
        accepted > 100,
        "{accepted}: the loop says nothing of settings that are accepted"
    );
}

/// A tiny run with a checkpoint.
fn finished_run(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    assert!(
        ibot(&scratch.train(&["--steps", "2", "--checkpoint-every", "1"]))
            .status
            .success()
    );
    scratch
}

#[test]
fn weights() {
    let scratch = finished_run("hostile-weights");
    let good = fs::read(scratch.0.join("run/teacher.safetensors")).unwrap();
    let path = scratch.0.join("changed.safetensors");
    let (mut refused, mut read) = (0, 0);
    fuzz("weights", |random| {
        let mut bytes = good.clone();
        if random.chance(0.5) {
            // the header decides about sizes
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let mut head = bytes[..header].to_vec();
            mutate(&mut head, random);
            bytes.splice(..header, head);
        } else {
            mutate(&mut bytes, random);
        }
        fs::write(&path, &bytes).unwrap();
        match read_safetensors(&path) {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(error.to_string().contains("changed.safetensors"), "{error}");
                refused += 1;
            }
        }
    });
    assert!(
        refused > 100 && read > 100,
        "{refused} refused, {read} read"
    );
}

/// Whatever byte of a checkpoint changes, it is noticed, and the one before it is taken.
#[test]
fn checkpoints() {
    let scratch = finished_run("hostile-checkpoint");
    let store = Store::new(scratch.0.join("run/checkpoints"));
    let (before, _) = store.newest().unwrap();
    let before = before.unwrap();
    assert_eq!(before.manifest.step, 2);
    let files = ["checkpoint.json", "state.safetensors", "B3SUMS"];
    let good: Vec<Vec<u8>> = files
        .iter()
        .map(|file| fs::read(store.path(2).join(file)).unwrap())
        .collect();
    fuzz("checkpoints", |random| {
        let at = random.below(files.len());
        let path = store.path(2).join(files[at]);
        let mut bytes = good[at].clone();
        mutate(&mut bytes, random);
        if random.chance(0.02) {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(&path, &bytes).unwrap();
        }
        let (newest, damaged) = store.newest().unwrap();
        let newest = newest.unwrap();
        if newest.manifest.step == 2 {
            assert_eq!(newest, before, "another state under a good name");
        } else {
            assert_eq!((newest.manifest.step, damaged.len()), (1, 1));
            let message = damaged[0].error.to_string();
            assert!(message.contains("step-000000002"), "{message}");
        }
        fs::write(&path, &good[at]).unwrap();
    });
    assert_eq!(Checkpoint::read(&store.path(2)).unwrap(), before);
}

#[test]
fn records() {
    let scratch = finished_run("hostile-record");
    let run = scratch.0.join("run");
    let path = run.join("run.json");
    let good = fs::read(&path).unwrap();
    let record = RunRecord::read(&run).unwrap().unwrap();
    fuzz("records", |random| {
        let mut bytes = good.clone();
        mutate(&mut bytes, random);
        fs::write(&path, &bytes).unwrap();
        if let Ok(Some(found)) = RunRecord::read(&run) {
            let _ = record.setting_changes(&found, Path::new("run"));
        }
    });
}
