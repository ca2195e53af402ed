//! What several processes make of one model: features, and classifiers.

use std::fs;
use std::process::{Output, Stdio};

use crate::ranks::{on_ranks, stderr};
use crate::resume::signal;
use crate::{Scratch, ibot, on_model, stdout};

/// A model, and the images that it was trained on for a step.
fn trained(scratch: &Scratch) -> [String; 2] {
    let output = ibot(&scratch.train(&["--steps", "1"]));
    assert!(output.status.success(), "{}", stderr(&output));
    ["run/teacher.safetensors", "images"].map(|name| scratch.path(name))
}

/// Rows of two models in one table would look like those of one.
#[test]
fn features_of_two_models_are_refused() {
    let scratch = Scratch::new("ranks-two-models");
    let [model, images] = trained(&scratch);
    let other = scratch.path("run/student.safetensors");
    let out = scratch.path("out.csv");
    let of = |model: &str| {
        let flags = on_model("embed", model, &images);
        let flags = [&flags[..], &["--out", &out]].concat();
        flags.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let Some(mut command) = on_ranks(1, &of(&model)) else {
        return;
    };
    command.args([":", "-n", "1", env!("CARGO_BIN_EXE_ibot")]);
    let output = command.args(of(&other)).output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    let expected = "model or features of rank 1 differ from those of rank 0";
    assert_eq!(text.matches(expected).count(), 1, "{text}");
}

/// `embed`, `knn` and `probe`: each rank computes features of a share of the images.
#[test]
fn features_of_several_ranks_are_those_of_one() {
    let scratch = Scratch::new("ranks-features");
    let [model, images] = trained(&scratch);
    let of = |command: &str, more: &[&str]| -> Vec<String> {
        let flags = on_model(command, &model, &images);
        let all = [&flags[..], &["--batch-size", "2"], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let [alone, shared] =
        ["alone.safetensors", "shared.safetensors"].map(|name| scratch.path(name));
    let output = ibot(&of("embed", &["--out", &alone]));
    assert!(output.status.success(), "{}", stderr(&output));
    let Some(mut command) = on_ranks(3, &of("embed", &["--out", &shared])) else {
        return;
    };
    let output = command.output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert_eq!(text.matches("rank 2 of 3 on ").count(), 1, "{text}");
    assert_eq!(text.matches("images/s").count(), 1, "{text}");
    assert_eq!(fs::read(&shared).unwrap(), fs::read(&alone).unwrap());
    for command in ["knn", "probe"] {
        let arguments = of(command, &["--json", "--held-out", "0.5"]);
        let output = on_ranks(2, &arguments).unwrap().output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output), stdout(&ibot(&arguments)), "{command}");
    }
    // one process writes patches as they come
    let arguments = of("embed", &["--out", &shared, "--features", "patches"]);
    let output = on_ranks(2, &arguments).unwrap().output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert_eq!(
        text.matches("runs in one process only").count(),
        1,
        "{text}"
    );
}

/// A classifier of several ranks is that of one but for rounding, as its batches are in other parts. A run that was stopped goes on bit for
/// bit, and with another number of ranks but for rounding.
#[test]
fn ranks_fine_tune_together() {
    let scratch = Scratch::new("ranks-finetune");
    let [model, images] = trained(&scratch);
    let tuned = |out: &str, more: &[&str]| -> Vec<String> {
        let (out, flags) = (scratch.path(out), on_model("finetune", &model, &images));
        let rates = ["--json", "--held-out", "0.4", "--learning-rate", "0.1"];
        let all = [&flags[..], &rates, &["--out", &out], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let report = |output: &Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", stderr(output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let losses = |report: &serde_json::Value| -> Vec<f64> {
        let epochs = report["epochs"].as_array().unwrap();
        epochs
            .iter()
            .map(|of| of["loss"].as_f64().unwrap())
            .collect()
    };
    // the last batch of an epoch has fewer images than there are ranks
    let flags = ["--epochs", "4", "--batch-size", "4"];
    let alone = report(&ibot(&tuned("alone", &flags)));
    let Some(mut command) = on_ranks(3, &tuned("three", &flags)) else {
        return;
    };
    let three = report(&command.output().unwrap());
    let [of_one, of_three] = [&alone, &three].map(losses);
    assert_eq!(of_one.len(), 4);
    for (one, three) in of_one.iter().zip(&of_three) {
        assert!((one - three).abs() < 1e-4, "{of_one:?} {of_three:?}");
    }
    assert_eq!(alone["held_out"], three["held_out"]);
    let flags = ["--epochs", "60", "--batch-size", "4"];
    let on = |ranks: usize, out: &str| on_ranks(ranks, &tuned(out, &flags)).unwrap();
    let whole = report(&on(2, "whole").output().unwrap());
    let classifier = |out: &str| fs::read(scratch.0.join(out).join("last.safetensors"));
    for ranks in [2, 3] {
        let out = format!("stopped-{ranks}");
        let mut command = on(2, &out);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        for _ in 0..600 {
            if classifier(&out).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        signal(child.id(), "-USR1");
        assert_eq!(child.wait().unwrap().code(), Some(138));
        assert!(scratch.0.join(&out).join("checkpoints").exists());
        let rest = report(&on(ranks, &out).output().unwrap());
        let [of_whole, of_rest] = [&whole, &rest].map(losses);
        assert_eq!([of_whole.len(), of_rest.len()], [60, 60]);
        match ranks {
            2 => assert!(classifier(&out).unwrap() == classifier("whole").unwrap()),
            _ => {
                let pairs = of_whole.iter().zip(&of_rest);
                let most = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                println!("losses differ by at most {most:e}");
                assert!(most < 1e-3, "{most:e}");
            }
        }
    }
}
