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
    let parts = ["another run", "learning_rate: 1", "-> 0.001", "--out"];
    refused(&lower, &parts);
}

/// A complete run has no checkpoints: where its metrics are damaged or gone, its classifiers stay.
#[test]
fn a_run_that_cannot_be_resumed_keeps_its_classifiers() {
    let colors = colors("kept");
    let flags = colors.arguments("out", &["--epochs", "3"]);
    assert!(crate::ibot(&flags).status.success());
    let out = colors.scratch.0.join("out");
    let metrics = out.join("metrics.jsonl");
    let whole = fs::read_to_string(&metrics).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let damaged = |at: usize| {
        let mut lines = lines.clone();
        lines[at] = "\0\0";
        lines.join("\n") + "\n"
    };
    let classifiers =
        || ["best", "last"].map(|name| fs::read(out.join(format!("{name}.safetensors"))).unwrap());
    let before = classifiers();
    for (text, said) in [
        (damaged(0), "has 2 of 3 epochs (line 1 is damaged)"),
        (damaged(1), "has 2 of 3 epochs (line 2 is damaged)"),
        (damaged(2), "has 2 of 3 epochs (line 3 is damaged)"),
        (format!("{}\n", lines[0]), "has 1 of 3 epochs"),
        (String::new(), "has 0 of 3 epochs"),
    ] {
        fs::write(&metrics, &text).unwrap();
        let kept = ["no checkpoint", "best.safetensors, last.safetensors"];
        refused(
            &flags,
            &[&["metrics.jsonl", said, "--out"][..], &kept].concat(),
        );
        assert_eq!(fs::read_to_string(&metrics).unwrap(), text);
        assert!(classifiers() == before);
    }
    fs::remove_file(&metrics).unwrap();
    refused(&flags, &["metrics.jsonl has 0 of 3 epochs", "--out"]);
    let config = out.join("config.toml");
    let settings = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    refused(&flags, &["another run", "without config.toml", "--out"]);
    assert!(classifiers() == before);
    // restored from a copy
    fs::write(&config, settings).unwrap();
    fs::write(&metrics, &whole).unwrap();
    let output = crate::ibot(&flags);
    let said = crate::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the run is complete"), "{said}");
}

/// A run is known by its model, images and settings, not by how their paths are spelled.
#[test]
fn another_spelling_of_its_paths_is_the_same_run() {
    let colors = colors("spelled");
    let flags = colors.arguments("out", &["--epochs", "1"]);
    assert!(crate::ibot(&flags).status.success());
    let root = &colors.scratch.0;
    fs::copy(&colors.model, root.join("copy.safetensors")).unwrap();
    let root_text = format!("{}/", root.display());
    let relative: Vec<String> = flags
        .iter()
        .map(|flag| flag.replace("run/teacher", "copy").replace(&root_text, ""))
        .collect();
    assert_ne!(relative, flags);
    let output = crate::command(&relative)
        .current_dir(root)
        .output()
        .unwrap();
    let said = crate::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the run is complete"), "{said}");
    refused(
        &[&flags[..], &["--range".into(), "0,100".into()]].concat(),
        &["another run", "range of values: ", " -> [0, 100]"],
    );
    // the same names in another folder are other images
    let train = colors.file("other");
    fs::rename(root.join("colors"), &train).unwrap();
    let moved = |flag: &String| flag.replace(&colors.train, &train);
    let moved: Vec<String> = flags.iter().map(moved).collect();
    let change = format!("data: {} -> {train}", colors.train);
    refused(&moved, &["another run", &change, "--out"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&train, &colors.train).unwrap();
        assert!(crate::ibot(&moved).status.success());
    }
}

/// Runs until another epoch is done, is stopped by Ctrl-C, and returns what it printed.
#[cfg(unix)]
fn stopped_after_an_epoch(flags: &[String], out: &Path) -> String {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let epochs = || {
        if out.join("metrics.jsonl").exists() {
            metrics(out).len()
        } else {
            0
        }
    };
    let before = epochs();
    let child = crate::command(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while epochs() <= before {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no epoch in a minute"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    crate::resume::signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    let said = crate::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    said
}

/// Ctrl-C finishes the step, writes the newest classifier and gives the shell's status.
#[cfg(unix)]
#[test]
fn a_signal_keeps_what_was_made() {
    let colors = colors("signal");
    let flags = colors.arguments("out", &["--epochs", "1000000"]);
    let out = colors.scratch.0.join("out");
    stopped_after_an_epoch(&flags, &out);
    let made = metrics(&out).last().unwrap()["step"].as_u64().unwrap();
    let last = ibot::files::model::read_model(&out.join("last.safetensors"), &Default::default());
    let card = last.unwrap().card.unwrap();
    assert!(card.step as u64 >= made, "{} after {made}", card.step);
    assert!(out.join("best.safetensors").exists());
    // the same command goes on, though a line of the metrics is damaged: the checkpoint has the epochs
    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let (first, others) = lines.split_once('\n').unwrap();
    fs::write(out.join("metrics.jsonl"), format!("{{}}\n{others}")).unwrap();
    let said = stopped_after_an_epoch(&flags, &out);
    let step = format!("resuming from step {}", card.step);
    assert!(said.contains(&step), "{said}");
    assert!(!said.contains("instead of"), "{said}");
    let restored = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(restored.lines().next(), Some(first));
    // and on another backend, which it says
    let backend = |flag: &String| flag.replace("flex", "ndarray");
    let on_other: Vec<String> = flags.iter().map(backend).collect();
    let said = stopped_after_an_epoch(&on_other, &out);
    assert!(
        said.contains("resumes on ndarray instead of flex"),
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
