//! How fine-tuning refuses, fails and stops.

use std::fs;
use std::path::Path;

use ibot::files::read_safetensors;
use image::RgbImage;

use crate::finetune::colors;
use crate::{metrics, refused};

#[test]
fn what_cannot_work_is_refused() {
    let colors = colors("refused");
    let write = |path: &str| {
        let path = colors.scratch.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::new(20, 20).save(path).unwrap();
    };
    write("single/a/0.png");
    write("single/a/1.png");
    write("single/lonely/0.png");
    write("one/a/0.png");
    write("strange/zebra/0.png");
    write("flat/0.png");
    write("damaged/blue/0.png");
    let damaged = colors.file("damaged/blue/0.png");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[50..].fill(0); // its header stays
    fs::write(&damaged, bytes).unwrap();
    let plain = colors.scratch.0.join("plain.safetensors");
    let tensors = read_safetensors(colors.model.as_ref()).unwrap();
    ibot::files::write_safetensors(&plain, &tensors).unwrap();
    let names = [
        "plain.safetensors",
        "single",
        "one",
        "strange",
        "flat",
        "damaged",
    ];
    let [plain, single, one, strange, flat, damaged] = names.map(|name| colors.file(name));
    let out = colors.file("never");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &one], &["one", "fewer than two classes"]),
        (&["--data", &single], &["single", "class lonely", "--val"]),
        (&["--val", &strange], &["strange", "zebra"]),
        (&["--val", &flat], &["flat", "has no labeled image"]),
        (
            &["--val", &damaged],
            &["images to test on", "none of the 1 images", "0.png"],
        ),
        (&["--model", &plain], &["plain.safetensors", "--encoder"]),
        (
            &["--model", &plain, "--encoder", "vit_tiny_patch16_224"],
            &["plain.safetensors", "does not fit"],
        ),
        (&["--model", &colors.file("none")], &["none"]),
        (&["--held-out", "1"], &["--held-out = 1"]),
        (&["--image-size", "20"], &["--image-size = 20"]),
        (&["--layer-decay", "0"], &["--layer-decay = 0"]),
        (&["--drop-path", "1"], &["--drop-path = 1"]),
        (&["--label-smoothing", "1"], &["--label-smoothing = 1"]),
        (&["--learning-rate", "NaN"], &["--learning-rate = NaN"]),
        (&["--epochs", "0"], &["--epochs = 0"]),
        (&["--batch-size", "0"], &["--batch-size = 0"]),
    ];
    for (more, parts) in cases {
        let mut flags = vec!["finetune", "--backend", "flex", "--out", &out];
        for (flag, value) in [("--model", &colors.model), ("--data", &colors.train)] {
            if !more.contains(&flag) {
                flags.extend([flag, value.as_str()]);
            }
        }
        refused(&[&flags[..], more].concat(), parts);
        assert!(!Path::new(&out).exists(), "{more:?} left a run folder");
    }
    // a folder that holds a run, be it of training
    refused(
        &colors.arguments("run", &[]),
        &["run", "another run", "--out"],
    );
    let classify = ["classify", "--model", &colors.model, "--data", &colors.val];
    refused(
        &classify,
        &["teacher.safetensors", "names no classes", "ibot finetune"],
    );
}

/// A loss that is not finite ends the run; nothing that was written is lost.
#[test]
fn a_loss_that_is_not_finite_ends_it() {
    let colors = colors("diverges");
    let diverge = colors.arguments("out", &["--epochs", "3", "--learning-rate", "1e38"]);
    refused(
        &diverge,
        &["epoch 1", "--learning-rate", "no epoch was finished"],
    );
    let out = colors.scratch.0.join("out");
    assert!(!out.join("last.safetensors").exists());
    assert!(metrics(&out).is_empty());
    // nothing was made, so that the same command begins again, and fails again
    refused(&diverge, &["epoch 1", "no epoch was finished"]);
    let lower = colors.arguments("out", &["--epochs", "3", "--learning-rate", "1e-3"]);
    refused(&lower, &["another run", "learning_rate = 0.001", "--out"]);
}

/// Killed between its first epoch and the checkpoint of that, the same command begins anew; of more epochs, there were checkpoints,
/// and the classifiers stay.
#[test]
fn a_run_without_a_checkpoint_begins_anew() {
    let colors = colors("anew");
    let flags = colors.arguments("out", &["--epochs", "3"]);
    assert!(crate::ibot(&flags).status.success());
    let out = colors.scratch.0.join("out");
    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let keep = |count: usize| {
        let kept: Vec<&str> = lines.lines().take(count).collect();
        fs::write(out.join("metrics.jsonl"), kept.join("\n") + "\n").unwrap();
    };
    keep(2);
    let best = fs::read(out.join("best.safetensors")).unwrap();
    refused(&flags, &["another run", "without checkpoints", "--out"]);
    assert!(fs::read(out.join("best.safetensors")).unwrap() == best);
    keep(1);
    let said = crate::succeeds(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        said.contains("has no checkpoint, and begins anew"),
        "{said}"
    );
    let [before, after] = [
        lines,
        fs::read_to_string(out.join("metrics.jsonl")).unwrap(),
    ]
    .map(|lines| -> Vec<f64> {
        let losses = lines.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["loss"].as_f64().unwrap()
        });
        losses.collect()
    });
    assert_eq!(before, after);
}

/// Ctrl-C finishes the step, writes the newest classifier and gives the shell's status.
#[cfg(unix)]
#[test]
fn a_signal_keeps_what_was_made() {
    use std::time::{Duration, Instant};
    let colors = colors("signal");
    let flags = colors.arguments("out", &["--epochs", "1000000"]);
    let quiet = std::process::Stdio::null;
    let mut child = crate::command(&flags)
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .unwrap();
    let out = colors.scratch.0.join("out");
    let started = Instant::now();
    while fs::metadata(out.join("metrics.jsonl")).map_or(0, |file| file.len()) == 0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no epoch in a minute"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    crate::resume::signal(child.id(), "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let made = metrics(&out).last().unwrap()["step"].as_u64().unwrap();
    let last = ibot::files::model::read_model(&out.join("last.safetensors"), &Default::default());
    let card = last.unwrap().card.unwrap();
    assert!(card.step as u64 >= made, "{} after {made}", card.step);
    assert!(out.join("best.safetensors").exists());
    // the same command goes on, until it is stopped again
    let child = crate::command(&flags)
        .stdout(std::process::Stdio::piped())
        .stderr(quiet())
        .spawn()
        .unwrap();
    let before = metrics(&out).len();
    while metrics(&out).len() <= before + 1 {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "no epoch in two minutes"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    crate::resume::signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = crate::stdout(&output);
    assert!(
        said.contains(&format!("resuming from step {}", card.step)),
        "{said}"
    );
    let epochs: Vec<u64> = metrics(&out)
        .iter()
        .map(|of| of["epoch"].as_u64().unwrap())
        .collect();
    assert!(
        epochs.iter().copied().eq(1..=epochs.len() as u64),
        "{epochs:?}"
    );
}

/// Stopped in its first epoch, in the middle and at its end, a run has the bits of one that was not.
#[cfg(unix)]
#[test]
fn an_interrupted_run_has_the_same_bits() {
    let colors = colors("resumes");
    let flags = [
        "--epochs",
        "40",
        "--learning-rate",
        "0.05",
        "--drop-path",
        "0.2",
    ];
    let whole = colors.arguments("whole", &flags);
    assert!(crate::ibot(&whole).status.success());
    let parts = colors.arguments("parts", &flags);
    let out = colors.scratch.0.join("parts");
    let mut stops = 0;
    for wait in [1, 3, 8, 15, 30] {
        let quiet = std::process::Stdio::null;
        let mut child = crate::command(&parts)
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        let started = std::time::Instant::now();
        let lines =
            || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        while lines() < wait
            && started.elapsed().as_secs() < 60
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        crate::resume::signal(child.id(), if wait == 8 { "-KILL" } else { "-INT" });
        stops += usize::from(!child.wait().unwrap().success());
    }
    assert!(stops > 1, "the run was too fast to be stopped");
    let report = |flags: &[String]| -> serde_json::Value {
        let output = crate::ibot(&[flags, &["--json".to_owned()]].concat());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut parts = report(&parts);
    assert!(!out.join("checkpoints").exists());
    for name in ["last.safetensors", "best.safetensors", "model.safetensors"] {
        let [whole, parts] =
            ["whole", "parts"].map(|run| fs::read(colors.scratch.0.join(run).join(name)).unwrap());
        assert!(whole == parts, "{name} differs");
    }
    // a complete run gives its results again
    let mut whole = report(&whole);
    for report in [&mut whole, &mut parts] {
        for epoch in report["epochs"].as_array_mut().unwrap() {
            for timed in ["images_per_s", "epoch_s"] {
                epoch[timed] = serde_json::Value::Null;
            }
        }
        for which in ["best", "last"] {
            report[which]["file"] = serde_json::Value::Null;
        }
    }
    assert_eq!(whole, parts);
}
