//! A run goes on with the options, validation images and weights that it began with.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ibot::files::model::read_card;
use ibot::train::{NoObserver, run};
use serde_json::Value;

use crate::best_teachers::request;
use crate::{Scratch, ibot, refused, stdout};

fn evaluated_steps(run: &Path) -> Vec<(u64, bool)> {
    let text = fs::read_to_string(run.join("evaluations.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["step"].as_u64().unwrap(), line.get("knn").is_some())
    });
    lines.collect()
}

#[test]
fn options_are_those_of_the_run() {
    let scratch = Scratch::new("options");
    let images = scratch.images();
    // ten images in batches of four: an epoch is two steps
    let mut flags = vec!["--val", &images, "--knn-every", "1", "--keep", "1"];
    flags.extend(["--checkpoint-every", "3", "--on-anomaly", "stop"]);
    flags.extend(["--on-device-lost", "cpu", "--tensorboard", "--steps", "4"]);
    let begun = scratch.train(&flags);
    assert!(ibot(&begun).status.success());
    let run = scratch.path("run");
    let longer = ["train", "--resume", &run, "--steps", "8", "--override"];
    assert!(ibot(&longer).status.success());
    let run = Path::new(&run);
    let all = [0, 2, 4, 6, 8].map(|step| (step, true));
    assert_eq!(evaluated_steps(run), all);
    let events = fs::read_dir(run.join("tensorboard")).unwrap().count();
    assert_eq!(events, 2, "one file for each call");
    let options = || {
        let record = fs::read(run.join("run.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["options"].clone()
    };
    let mut expected = serde_json::json!({
        "knn_every": 1, "checkpoint_every": "3", "keep": 1, "on_anomaly": "stop", "on_device_lost": "cpu"
    });
    assert_eq!(options(), expected);
    // and a flag is stronger
    let more = [&longer[..4], &["10", "--override", "--knn-every", "0"]].concat();
    assert!(ibot(&more).status.success());
    let last = [(10, true)];
    assert_eq!(evaluated_steps(run), [&all[..], &last].concat());
    expected["knn_every"] = 0.into();
    assert_eq!(options(), expected);
}

#[test]
fn validation_images_are_those_of_the_run() {
    let scratch = Scratch::new("same-val");
    let images = scratch.images();
    let train = |more: &[&str]| {
        let flags = ["--set", "keep_best=true", "--steps", "4"];
        scratch.train(&[&flags[..], more].concat())
    };
    assert!(ibot(&train(&["--val", &images])).status.success());
    let run = scratch.0.join("run");
    let files = ["best.safetensors", "evaluations.jsonl"].map(|name| run.join(name));
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    let step = read_card(&files[0]).unwrap().unwrap().step;
    // the same command without --val has them too
    let output = ibot(&train(&[]));
    assert!(output.status.success(), "{}", stdout(&output));
    let after = files.each_ref().map(|file| fs::read(file).unwrap());
    assert!(before == after);

    let other = scratch.0.join("other/odd");
    fs::create_dir_all(&other).unwrap();
    for name in ["1.png", "3.png"] {
        fs::copy(scratch.0.join("images/odd").join(name), other.join(name)).unwrap();
    }
    let other = scratch.path("other");
    let with_other = train(&["--val", &other]);
    let said = ["images to validate on: 10 images in", "-> 2 images in"];
    refused(&with_other, &said);
    let after = files.each_ref().map(|file| fs::read(file).unwrap());
    assert!(before == after);
    // allowed, it is compared with nothing of before, and the best teacher so far stays
    let of_run = scratch.path("run");
    let longer = [
        "train", "--resume", &of_run, "--val", &other, "--steps", "6",
    ];
    let output = ibot(&[&longer[..], &["--override"]].concat());
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("other images or another measure"), "{text}");
    let aside = run.join(format!("best-of-step-{step}.safetensors"));
    assert!(fs::read(aside).unwrap() == before[0]);
    assert!(files[0].exists());
}

/// The published weights are the first teacher of a run that resumes without naming them again.
#[test]
fn a_resumed_run_compares_with_its_starting_weights() {
    let scratch = Scratch::new("starting-weights");
    let first = scratch.train(&["--steps", "1"]);
    assert!(ibot(&first).status.success());
    let weights = scratch.path("weights.safetensors");
    fs::rename(scratch.path("run/teacher.safetensors"), &weights).unwrap();
    fs::remove_dir_all(scratch.path("run")).unwrap();
    // without a learning rate no image moves to another class, so that step 0 is kept
    let images = scratch.images();
    let flags = [
        "--val",
        &images,
        "--steps",
        "2",
        "--learning-rate",
        "0",
        "--set",
        "keep_best=true",
        "--pretrained",
        &weights,
    ];
    assert!(ibot(&scratch.train(&flags)).status.success());
    let run = scratch.0.join("run");
    // step 0 is above all that come, and these are above all others
    let evaluations = run.join("evaluations.jsonl");
    let lines = fs::read_to_string(&evaluations).unwrap();
    let lines = lines.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["knn"] = if line["step"] == 0 { 1e9 } else { -1.0 }.into();
        format!("{line}\n")
    });
    let lines: String = lines.collect();
    fs::write(&evaluations, lines).unwrap();
    let best = fs::read(run.join("best.safetensors")).unwrap();
    let resume = [
        "train",
        "--resume",
        &scratch.path("run"),
        "--steps",
        "4",
        "--override",
    ];
    let output = ibot(&resume);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(fs::read(run.join("best.safetensors")).unwrap() == best);
}

#[test]
fn weights_are_those_of_the_run() {
    let scratch = Scratch::new("same-weights");
    let train = |more: &[&str]| {
        let args = scratch.train(&[&["--steps", "2"], more].concat());
        ibot(&args)
    };
    let keep = |seed: &str| {
        assert!(train(&["--seed", seed]).status.success());
        let weights = scratch.path(&format!("{seed}.safetensors"));
        fs::rename(scratch.path("run/teacher.safetensors"), &weights).unwrap();
        fs::remove_dir_all(scratch.path("run")).unwrap();
        weights
    };
    let [one, two] = ["1", "2"].map(keep);
    assert!(train(&["--pretrained", &one]).status.success());
    let other = scratch.train(&["--steps", "2", "--pretrained", &two]);
    refused(
        &other,
        &[
            "pretrained: backbone of",
            "1.safetensors -> backbone of",
            "2.safetensors",
        ],
    );
    // the same file elsewhere is the same
    let moved = scratch.path("moved.safetensors");
    fs::copy(&one, &moved).unwrap();
    assert!(train(&["--pretrained", &moved]).status.success());

    // without a checkpoint, a run begins again from its own weights
    let run = scratch.path("run");
    fs::remove_dir_all(scratch.0.join("run/checkpoints")).unwrap();
    let record = scratch.0.join("run/run.json");
    let text = fs::read_to_string(&record).unwrap();
    let early = text.replace("\"has_checkpoint\": true", "\"has_checkpoint\": false");
    assert_ne!(text, early);
    fs::write(&record, &early).unwrap();
    let trained = fs::read(scratch.path("run/student.safetensors")).unwrap();
    assert!(ibot(&["train", "--resume", &run]).status.success());
    assert!(fs::read(scratch.path("run/student.safetensors")).unwrap() == trained);
    // and says so where these are gone
    fs::remove_dir_all(scratch.0.join("run/checkpoints")).unwrap();
    fs::write(&record, &early).unwrap();
    for weights in [&one, &moved] {
        fs::remove_file(weights).unwrap();
    }
    refused(
        &["train", "--resume", &run],
        &["safetensors", "there is nothing now", "--pretrained"],
    );
}

/// Through the library, whose request has no setting that says it: the command and the Python package set `method.pretrained`.
#[test]
fn weights_for_a_run_that_began_without_any_are_refused() {
    let scratch = Scratch::new("late-weights");
    assert!(ibot(&scratch.train(&["--steps", "2"])).status.success());
    let mut request = request(&scratch, "late", "steps = 2");
    let stop = AtomicBool::new(false);
    run(&request, &stop, &mut NoObserver).unwrap();
    run(&request, &stop, &mut NoObserver).unwrap();
    let student = scratch.0.join("late/student.safetensors");
    let before = fs::read(&student).unwrap();
    let weights = scratch.path("run/teacher.safetensors");
    request.pretrained = Some(weights.clone().into());
    let error = run(&request, &stop, &mut NoObserver).unwrap_err();
    let said = error.to_string();
    let change = format!("pretrained: none -> backbone of {weights}");
    assert!(
        said.contains("other settings") && said.contains(&change),
        "{said}"
    );
    assert!(fs::read(&student).unwrap() == before);
    // a run that began with them need not name them
    request.out = scratch.path("early").into();
    run(&request, &stop, &mut NoObserver).unwrap();
    run(&request, &stop, &mut NoObserver).unwrap();
    request.pretrained = None;
    run(&request, &stop, &mut NoObserver).unwrap();
    // and by the command, which names its own setting too
    let late = scratch.train(&["--steps", "2", "--pretrained", &weights]);
    let said = [
        "method.pretrained: false -> true",
        "pretrained: none -> backbone of",
    ];
    refused(&late, &said);
}

/// The record keeps no names, but where images are gone.
#[test]
fn changed_images_are_named_by_their_class() {
    let scratch = Scratch::new("gone-image");
    let train = scratch.train(&["--held-out", "0.4", "--steps", "2"]);
    assert!(ibot(&train).status.success());
    let gone = scratch.0.join("images/odd/1.png");
    fs::rename(&gone, gone.with_file_name("0.png")).unwrap();
    let other = [
        ": 10 images -> 10 images (some names differ)",
        "to validate on: 4 held out -> 4 held out (some names differ)",
    ];
    refused(&train, &other);
    fs::remove_file(gone.with_file_name("0.png")).unwrap();
    refused(&train, &[": 10 images -> 9 images (odd: 5 -> 4)"]);
}
