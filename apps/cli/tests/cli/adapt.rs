//! `--preset adapt`: published weights on one's own images, and what was gained.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ibot::files::model::read_card;
use ibot::random::{Random, Stream};
use serde_json::Value;

use crate::{Scratch, command, ibot, refused, stdout};

/// The preset from the weights of a tiny run, which is made first; ten images in batches of four, so that an epoch is two
/// steps, or one with four held out. Each is far enough from the one before to be evaluated.
struct Adapted {
    scratch: Scratch,
    weights: String,
}

impl Adapted {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        assert!(ibot(&scratch.train(&["--steps", "2"])).status.success());
        let weights = scratch.path("weights.safetensors");
        fs::rename(scratch.path("run/teacher.safetensors"), &weights).unwrap();
        fs::remove_dir_all(scratch.path("run")).unwrap();
        Self { scratch, weights }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let flags = ["--preset", "adapt", "--pretrained", &self.weights];
        let each_epoch = ["--set", "health_every=1"];
        let all = [&flags[..], &each_epoch, more].concat();
        self.scratch.train(&all)
    }

    fn run(&self, more: &[&str]) -> String {
        let output = ibot(&self.arguments(more));
        let text = stdout(&output);
        assert!(output.status.success(), "{text}");
        text
    }

    fn file(&self, name: &str) -> String {
        self.scratch.path(&format!("run/{name}"))
    }

    fn best(&self) -> Vec<u8> {
        fs::read(self.file("best.safetensors")).unwrap()
    }

    fn best_step(&self) -> usize {
        let card = read_card(Path::new(&self.file("best.safetensors"))).unwrap();
        card.unwrap().step
    }

    /// `evaluations.jsonl` as pairs of step and `key`.
    fn evaluations(&self, key: &str) -> Vec<(usize, f64)> {
        let text = fs::read_to_string(self.file("evaluations.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let step = line["step"].as_u64().unwrap() as usize;
            (step, line[key].as_f64().unwrap())
        });
        lines.collect()
    }

    /// The first of the largest values is the one that is kept; returns whether it is above the first value. `steps` are all
    /// and those of an epoch.
    #[track_caller]
    fn keeps_the_best_by(&self, key: &str, steps: [usize; 2]) -> bool {
        let lines = self.evaluations(key);
        let made: Vec<usize> = lines.iter().map(|(step, _)| *step).collect();
        let expected = (0..=steps[0]).step_by(steps[1]);
        assert_eq!(made, expected.collect::<Vec<_>>());
        let best = lines.iter().copied();
        let best = best.reduce(|best, next| if next.1 > best.1 { next } else { best });
        assert_eq!(self.best_step(), best.unwrap().0, "{lines:?}");
        best.unwrap().1 > lines[0].1
    }
}

#[test]
fn adapt_needs_weights() {
    let scratch = Scratch::new("adapt-nothing");
    let train = scratch.train(&["--preset", "adapt", "--steps", "2"]);
    refused(&train, &["need trained weights", "--pretrained"]);
    assert!(!scratch.0.join("run").exists());
}

#[test]
fn adapt_keeps_the_best_by_labels_and_says_what_was_gained() {
    let adapted = Adapted::new("adapt-labels");
    let text = adapted.run(&["--held-out", "0.4", "--epochs", "8"]);
    let gained = adapted.keeps_the_best_by("knn", [8, 1]);
    let said = if gained {
        "may be chance: up to"
    } else {
        "nothing was gained: no teacher was above the"
    };
    let line = |start: &str| text.lines().find(|line| line.contains(start));
    assert!(
        line(said).is_some_and(|line| line.contains("4 validation images")),
        "{text}"
    );
    assert!(
        line("done ").is_some_and(|line| line.ends_with("best.safetensors")),
        "{text}"
    );
    let knn = ibot(&[
        "knn",
        "--backend",
        "flex",
        "--model",
        &adapted.file("best.safetensors"),
        "--data",
        &adapted.scratch.path("images"),
    ]);
    assert!(knn.status.success(), "{}", stdout(&knn));
    // complete: the last evaluation is made again, and the same teacher is kept
    let best = adapted.best();
    let again = adapted.run(&["--held-out", "0.4", "--epochs", "8"]);
    assert!(
        again.contains("the run is complete") && again.contains(said),
        "{again}"
    );
    assert!(adapted.best() == best);
}

#[test]
fn adapt_says_that_nothing_was_gained() {
    let adapted = Adapted::new("adapt-nothing-gained");
    let still = ["--held-out", "0.4", "--epochs", "3", "--learning-rate", "0"];
    let text = adapted.run(&still);
    assert!(
        text.contains("nothing was gained") && text.contains("use those weights"),
        "{text}"
    );
    assert!(!adapted.keeps_the_best_by("knn", [3, 1]));
    let tensors = |file: &str| ibot::files::read_safetensors(Path::new(file)).unwrap();
    assert!(tensors(&adapted.file("best.safetensors")) == tensors(&adapted.weights));
}

#[test]
fn adapt_claims_nothing_without_labels() {
    let adapted = Adapted::new("adapt-unlabeled");
    let text = adapted.run(&["--epochs", "4"]);
    let rose = adapted.keeps_the_best_by("rank_me", [8, 2]);
    let said = [
        "RankMe stayed",
        "no proof of a gain",
        "no teacher was above",
    ];
    let said = if rose { &said[..2] } else { &said[2..] };
    let is_said = said.iter().any(|part| text.contains(part));
    let remedy = "give some as --val or --held-out";
    assert!(is_said && text.contains(remedy), "{text}");
}

/// Killed again and again, and a folder that is begun anew: the best teacher is that of the run that was not disturbed.
#[test]
fn adapt_keeps_the_same_best_when_killed() {
    const STEPS: usize = 60;
    let adapted = Adapted::new("adapt-killed");
    let steps = STEPS.to_string();
    let flags = ["--steps", &steps, "--learning-rate", "0.5"];
    let began = Instant::now();
    adapted.run(&flags);
    let whole = began.elapsed().as_millis() as usize;
    adapted.keeps_the_best_by("rank_me", [STEPS, 2]);
    let (best, evaluations) = (adapted.best(), adapted.evaluations("rank_me"));
    let run = adapted.scratch.0.join("run");
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let seed = std::process::id().into();
    println!("kills by seed {seed}");
    let mut random = Random::new(seed, 0, 0, Stream::Shuffle);
    let anew = adapted.arguments(&[&flags[..], &["--override"]].concat());
    let mut kills = 0;
    for _ in 0..12 {
        let mut child = command(&anew).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(whole.max(1)) as u64));
        let is_over = child.try_wait().unwrap().is_some();
        if !is_over {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
        if is_over {
            // a run that is complete would be over at once each time
            fs::remove_dir_all(run.join("checkpoints")).unwrap();
        }
    }
    assert!(kills > 0);
    adapted.run(&[&flags[..], &["--override"]].concat());
    assert_eq!(adapted.evaluations("rank_me"), evaluations);
    assert!(adapted.best() == best);
}

/// Weights of another image size are used at the size of the settings, which the first lines say, with the flag for theirs.
#[test]
fn the_size_of_the_weights_is_said() {
    let adapted = Adapted::new("adapt-size");
    let said = "the weights were trained at 16 pixels";
    for (size, is_said) in [("24", true), ("16", false)] {
        let out = adapted.scratch.path(size);
        let flags = ["--image-size", size, "--steps", "1", "--out", &out];
        let mut arguments = adapted.arguments(&[]);
        // the last of --out would be refused
        let at = arguments.iter().position(|word| word == "--out").unwrap();
        arguments.drain(at..at + 2);
        arguments.extend(flags.map(str::to_owned));
        let output = ibot(&arguments);
        let text = stdout(&output);
        assert!(output.status.success(), "{text}");
        assert_eq!(text.contains(said), is_said, "{size}: {text}");
        assert_eq!(
            text.contains("--image-size 16 keeps them"),
            is_said,
            "{text}"
        );
    }
}

#[test]
fn weights_of_a_run_bring_their_backbone() {
    let adapted = Adapted::new("adapt-backbone");
    let (images, out) = (adapted.scratch.images(), adapted.scratch.path("own"));
    let train = [
        &["train", &images, "--backend", "flex", "--out", &out][..],
        &["--pretrained", &adapted.weights, "--image-size", "32"],
        &["--batch-size", "4", "--steps", "1"],
    ];
    let output = ibot(&train.concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shape = |path: &str| read_card(Path::new(path)).unwrap().unwrap().architecture;
    let own = format!("{out}/teacher.safetensors");
    let [own, of_weights] = [&own, &adapted.weights];
    assert_eq!(shape(own).embed_dim, shape(of_weights).embed_dim);
    assert_eq!(shape(own).depth, shape(of_weights).depth);
}
