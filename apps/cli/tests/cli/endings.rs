//! How a run ends when it does not run to its end.

use std::fs;

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
    refused(&train, &["step ", "is ", "the state after step", "run"]);
    let written = ibot::files::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert!(!written.is_empty());
    assert!(metrics(&run).iter().all(|line| line["loss"].is_number()));
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
