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
    let plain = colors.scratch.0.join("plain.safetensors");
    let tensors = read_safetensors(colors.model.as_ref()).unwrap();
    ibot::files::write_safetensors(&plain, &tensors).unwrap();
    let [plain, single, one, strange, flat] =
        ["plain.safetensors", "single", "one", "strange", "flat"].map(|name| colors.file(name));
    let out = colors.file("never");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &one], &["one", "fewer than two classes"]),
        (&["--data", &single], &["single", "class lonely", "--val"]),
        (&["--val", &strange], &["strange", "zebra"]),
        (&["--val", &flat], &["flat", "has no labeled image"]),
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
    refused(&diverge, &["another run", "metrics.jsonl", "--out"]);
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
}
