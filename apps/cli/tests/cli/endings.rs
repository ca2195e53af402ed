//! How a run ends when it does not run to its end.

use std::fs;
use std::path::Path;

use ibot::files::checkpoint::Store;
use ibot::files::model::read_card;
use serde_json::Value;

use crate::{Scratch, command, has_adapter, ibot, metrics, refused, stdout};

#[test]
fn a_finished_run_is_not_overwritten() {
    let scratch = Scratch::new("overwrite");
    let train = scratch.train(&["--steps", "1"]);
    let run = scratch.0.join("run");
    assert!(ibot(&train).status.success());
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    assert!(stdout(&ibot(&train)).contains("the run is complete"));
    refused(
        &scratch.train(&["--steps", "2"]),
        &["steps: 1 -> 2", "--out"],
    );
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
    fs::remove_file(run.join("run.json")).unwrap();
    refused(&train, &["holds a run that cannot be resumed", "--out"]);
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
}

/// Killed between its last checkpoint and its weights, a run has none, or those of an earlier step.
#[test]
fn a_finished_run_without_its_weights_gets_them() {
    let scratch = Scratch::new("unexported");
    let train = scratch.train(&["--steps", "2"]);
    let file = |name: &str| scratch.0.join("run").join(name);
    assert!(ibot(&train).status.success());
    let names = ["teacher.safetensors", "model.safetensors"];
    let before = names.map(|name| fs::read(file(name)).unwrap());
    fs::remove_file(file("model.safetensors")).unwrap();
    fs::copy(file("student.safetensors"), file("teacher.safetensors")).unwrap();
    assert!(stdout(&ibot(&train)).contains("the run is complete"));
    let after = names.map(|name| fs::read(file(name)).unwrap());
    assert!(after == before);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let scratch = Scratch::new("diverge");
    let train = scratch.train(&["--steps", "50", "--learning-rate", "1e38"]);
    let run = scratch.0.join("run");
    let remedy = "--on-anomaly rollback goes on from the start";
    refused(&train, &["step ", "is ", "the weights after step", remedy]);
    assert!(!run.join("checkpoints").exists());
    let written = ibot::files::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert!(!written.is_empty());
    assert!(metrics(&run).iter().all(|line| line["loss"].is_number()));
    let report = stdout(&ibot(&["report", &scratch.path("run")]));
    for said in ["Training failed", ": step ", "--on-anomaly rollback"] {
        assert!(report.contains(said), "{report}");
    }
}

/// A teacher that tells nothing is named after three looks, and ends the run if that was asked for.
#[test]
fn a_sick_run_stops() {
    let scratch = Scratch::new("sick");
    let train = scratch.train(&["--steps", "9", "--on-anomaly", "stop"]);
    let settings = "health_every = 1\n[schedule]\nwarmup_epochs = 0.0\n[method]\ntemperature_teacher_warmup = 1e3\n\
                    temperature_teacher = 1e3\n";
    let tiny = scratch.0.join("tiny.toml");
    let method = fs::read_to_string(&tiny)
        .unwrap()
        .replace("[method]\n", settings);
    fs::write(&tiny, method).unwrap();
    refused(
        &train,
        &["sick", "uniform teacher", "the state after step 3"],
    );
    let run = scratch.0.join("run");
    let found = metrics(&run).last().unwrap()["anomalies"].clone();
    assert_eq!(found[0], "uniform-teacher");
    assert!(run.join("checkpoints/step-000000003").exists());
}

/// A loss that is not finite sends the run back to its checkpoint with half the learning rate, three times.
#[test]
fn a_sick_run_goes_back() {
    let scratch = Scratch::new("rollback");
    assert!(ibot(&scratch.train(&["--steps", "5"])).status.success());
    let flags = [
        "--steps",
        "50",
        "--learning-rate",
        "1e38",
        "--override",
        "--on-anomaly",
        "rollback",
    ];
    let output = ibot(&scratch.train(&flags));
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for said in [
        "back to step 5 with 0.5 of",
        "back to step 5 with 0.25 of",
        "back to step 5 with 0.125 of",
        "rollback 3 of 3",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    let steps: Vec<u64> = metrics(&scratch.0.join("run"))
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert!(
        steps.iter().copied().eq(1..=steps.len() as u64),
        "{steps:?}"
    );
}

/// What weight decay multiplies weights by in a step is 1 - 3.5 at the full rate, so that they grow, and 1 - 1.75 at half of it.
const TOO_HIGH: [&str; 6] = [
    "--learning-rate",
    "0.64",
    "--set",
    "optimizer.weight_decay=350",
    "--set",
    "schedule.warmup_epochs=0",
];
/// Long enough for a loss that is not finite, with nothing that looks for signs before it.
const UNWATCHED: [&str; 4] = ["--steps", "250", "--set", "health_every=0"];

fn checkpoints(run: &Path) -> Vec<usize> {
    Store::of_run(run).steps().unwrap()
}

/// After a run has ended by a loss that is not finite, its checkpoint from before that is the newest, and rollback completes it.
#[test]
fn a_run_that_diverged_goes_on_with_half_its_rate() {
    let scratch = Scratch::new("half");
    let run = scratch.0.join("run");
    assert!(ibot(&scratch.train(&["--steps", "5"])).status.success());
    let flags = [&TOO_HIGH[..], &UNWATCHED].concat();
    let newest = "is that of step 5; --on-anomaly rollback";
    let first = [&flags[..], &["--override"]].concat();
    refused(&scratch.train(&first), &["is NaN", newest]);
    assert_eq!(checkpoints(&run), [5]);
    let before = metrics(&run);
    let again = [&flags[..], &["--on-anomaly", "rollback"]].concat();
    let output = ibot(&scratch.train(&again));
    let (text, message) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{message}");
    assert!(text.contains("back to step 5 with 0.5 of"), "{text}");
    let after = metrics(&run);
    assert_eq!(after.len(), 250);
    let rate = |lines: &[Value], at: usize| lines[at]["learning_rate"].as_f64().unwrap();
    assert!(before.len() > 15, "{}", before.len());
    for at in 0..before.len() {
        assert_eq!(after[at]["step"], before[at]["step"]);
        let factor = if at < 5 { 1.0 } else { 0.5 };
        assert_eq!(rate(&after, at), factor * rate(&before, at), "{at}");
    }
    // the first step after the checkpoint starts from its weights
    assert_eq!(after[5]["loss"], before[5]["loss"]);
    assert_ne!(after[7]["loss"], before[7]["loss"]);
}

/// Without a checkpoint of its own yet, a run goes back to the weights that it started from.
#[test]
fn a_new_run_goes_back_to_its_start() {
    let scratch = Scratch::new("start");
    assert!(ibot(&scratch.train(&["--steps", "5"])).status.success());
    let [weights, out] = ["run/teacher.safetensors", "new"].map(|name| scratch.path(name));
    let flags = [&TOO_HIGH[..], &UNWATCHED, &["--pretrained", &weights]].concat();
    let train = |more: &[&str]| {
        let mut train = scratch.train(&[&flags[..], more].concat());
        let at = train.iter().position(|flag| flag == "--out").unwrap();
        train[at + 1].clone_from(&out);
        train
    };
    let run = scratch.0.join("new");
    refused(&train(&[]), &["is NaN", "goes on from the start"]);
    let before = metrics(&run);
    let output = ibot(&train(&["--on-anomaly", "rollback"]));
    let (text, message) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{message}");
    assert!(text.contains("back to step 0 with 0.5 of"), "{text}");
    let after = metrics(&run);
    assert_eq!(after.len(), 250);
    assert_eq!(after[0]["loss"], before[0]["loss"]);
    let [half, full] = [&after, &before].map(|lines| lines[0]["learning_rate"].as_f64().unwrap());
    assert_eq!(half, 0.5 * full);
}

/// Logits explode in three checks, of every other step, before that is called a collapse; checkpoints are of every third step.
#[test]
fn a_collapsed_run_goes_back_to_before_it() {
    let scratch = Scratch::new("before");
    let watched =
        "--steps 90 --set health_every=2 --checkpoint-every 3 --keep 1 --on-anomaly rollback";
    let watched: Vec<&str> = watched.split(' ').collect();
    let output = ibot(&scratch.train(&[&TOO_HIGH[..], &watched].concat()));
    let (text, message) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{message}");
    let (before, after) = text
        .split_once(": the run collapsed or diverged: ")
        .unwrap();
    let (_, at) = before.rsplit_once("step ").unwrap();
    let (_, to) = after.split_once("back to step ").unwrap();
    let at: usize = at.parse().unwrap();
    let to: usize = to.split_once(' ').unwrap().0.parse().unwrap();
    // the checks at `at`, 2 and 4 steps before it exploded, that of 6 steps before it did not
    assert_eq!(to, (at - 6) / 3 * 3, "{text}");
    let lines = metrics(&scratch.0.join("run"));
    assert_eq!(lines.len(), 90);
    assert!(lines.iter().all(|line| line["anomalies"].is_null()));
}

/// The best teacher is of the steps that a rollback discards, up to the last health check.
#[test]
fn a_best_teacher_outlives_its_step() {
    let scratch = Scratch::new("best-of");
    let images = scratch.images();
    let watched = [
        "--val",
        &images,
        "--knn-every",
        "1",
        "--steps",
        "140",
        "--set",
        "keep_best=true",
        "--on-anomaly",
        "rollback",
    ];
    let output = ibot(&scratch.train(&[&TOO_HIGH[..], &watched].concat()));
    let (text, message) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{message}");
    assert!(text.contains("back to step 0 with 0.5 of"), "{text}");
    let (_, kept) = text.split_once("the best one so far, of step ").unwrap();
    let step: usize = kept.split_once(';').unwrap().0.parse().unwrap();
    let kept = scratch
        .0
        .join(format!("run/best-of-step-{step}.safetensors"));
    assert_eq!(read_card(&kept).unwrap().unwrap().step, step);
}

/// Images that cannot be decoded are no sickness: the learning rate stays, and the error is the last word.
#[test]
fn a_run_without_images_does_not_go_back() {
    let scratch = Scratch::new("no-rollback");
    assert!(ibot(&scratch.train(&["--steps", "5"])).status.success());
    let flags = ["--steps", "50", "--override", "--on-anomaly", "rollback"];
    let train = scratch.train(&flags);
    let mut folders = vec![scratch.0.join("images")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(mut bytes) = fs::read(&path)
                && bytes.len() > 60
            {
                bytes[50..].fill(0); // its header stays
                fs::write(path, bytes).unwrap();
            }
        }
    }
    let output = ibot(&train);
    let (text, message) = (stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}{message}");
    assert!(!text.contains("back to step"), "{text}");
    for said in ["step 6: ", "could be decoded", "the state after step 5"] {
        assert!(message.contains(said), "{said:?} is not in {message}");
    }
}

/// A deadline that no device keeps stands for a device that does not answer.
#[test]
fn a_gpu_that_does_not_answer_ends_the_run_and_its_checkpoint_stays() {
    if !has_adapter() {
        return;
    }
    let scratch = Scratch::new("silent");
    let train = |steps: &str| {
        let mut train = scratch.train(&["--steps", steps, "--override"]);
        train[2] = "wgpu".into();
        train
    };
    assert!(ibot(&train("2")).status.success());
    let run = scratch.0.join("run");
    let checkpoint = run.join("checkpoints/step-000000002");
    assert!(checkpoint.exists());

    let with_deadline = |seconds: &str| {
        let mut command = command(&train("4"));
        let output = command.env("IBOT_GPU_DEADLINE", seconds).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        message
    };
    let message = with_deadline("0.00001");
    for part in [
        "no answer on ",
        "fewer images per step",
        "TdrDelay",
        "amdgpu.lockup_timeout",
        "driver",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert!(checkpoint.exists() && metrics(&run).len() == 2);

    let message = with_deadline("soon");
    assert!(
        message.contains("IBOT_GPU_DEADLINE = soon: must be seconds"),
        "{message}"
    );
    assert!(ibot(&train("4")).status.success());
    assert!(run.join("checkpoints/step-000000004").exists());
}
