//! Runs from a folder to an exported backbone, on each backend.

use std::fs;
use std::path::Path;

use ibot::data::{FolderConfig, ImageFolder};
use ibot::eval::stratified_split;
use serde_json::Value;

use crate::{Scratch, has_adapter, ibot, metrics, refused, stdout};

/// A path that is not Unicode, which macOS and Windows do not have.
#[cfg(target_os = "linux")]
#[test]
fn images_under_any_path_are_trained_on() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let scratch = Scratch::new("any-path");
    let images = scratch.0.join(OsStr::from_bytes(b"caf\xe9"));
    fs::rename(scratch.images(), &images).unwrap();
    let [run, config] = ["run", "tiny.toml"].map(|name| scratch.0.join(name));
    let flags = ["--backend", "flex", "--steps", "2", "--knn-every", "1"].map(OsStr::new);
    let [out, file, val] = ["--out", "--config", "--val"].map(OsStr::new);
    let train = [OsStr::new("train"), images.as_ref(), val, images.as_ref()];
    let train = [
        &train[..],
        &[out, run.as_ref(), file, config.as_ref()],
        &flags,
    ]
    .concat();
    let output = ibot(&train);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let resume = ["train", "--resume"].map(OsStr::new);
    let output = ibot(&[&resume[..], &[run.as_ref()], &flags[..2]].concat());
    assert!(stdout(&output).contains("the run is complete"));
}

fn trains_on(backend: &str) {
    let scratch = Scratch::new(backend);
    let (images, run) = (scratch.images(), scratch.path("run"));
    let config = scratch.path("tiny.toml");
    let train = [
        "train", "--data", &images, "--out", &run, "--config", &config,
    ];
    let output = ibot(&[&train[..], &["--backend", backend, "--steps", "3"]].concat());
    let text = stdout(&output);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let first = text.lines().next().unwrap();
    let device = match backend {
        "wgpu" => ", Vulkan, ",
        "ndarray" => " (backend ndarray)",
        _ => "CPU, ",
    };
    assert!(
        first.starts_with("device  ") && first.contains(device),
        "{first}"
    );
    assert!(
        text.contains("cut.png"),
        "the image that was skipped is named: {text}"
    );

    let run = Path::new(&run);
    let lines = metrics(run);
    assert_eq!(
        lines
            .iter()
            .map(|line| line["step"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    for key in [
        "loss",
        "loss_cls",
        "loss_patch",
        "learning_rate",
        "temperature_teacher",
        "ema_decay",
        "gradient_norm",
        "images_per_s",
    ] {
        assert!(
            lines
                .iter()
                .all(|line| line[key].as_f64().is_some_and(|x| x > 0.0)),
            "{key}: {lines:?}"
        );
    }
    let student = ibot::files::read_safetensors(&run.join("student.safetensors")).unwrap();
    let teacher = ibot::files::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert_eq!(student["patch_embed.proj.weight"].shape, [16, 3, 8, 8]);
    assert!(student.keys().eq(teacher.keys()) && student != teacher);

    // the written configuration repeats the run, number for number
    let again = scratch.path("again");
    let config = run.join("config.toml");
    let config = config.to_string_lossy();
    let output = ibot(&[
        "train",
        "--data",
        &images,
        "--out",
        &again,
        "--config",
        &config,
        "--backend",
        backend,
        "--workers",
        "3",
    ]);
    assert!(output.status.success());
    let losses = |run: &Path| {
        metrics(run)
            .iter()
            .map(|line| line["loss"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(run), losses(Path::new(&again)));

    // and the exported backbone is a start for another
    let more = scratch.path("more");
    let teacher = run.join("teacher.safetensors");
    let teacher = teacher.to_string_lossy();
    let output = ibot(&[
        "train",
        "--data",
        &images,
        "--out",
        &more,
        "--config",
        &config,
        "--backend",
        backend,
        "--pretrained",
        &teacher,
        "--steps",
        "1",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn trains_on_flex() {
    trains_on("flex");
}

#[test]
fn trains_on_ndarray() {
    trains_on("ndarray");
}

#[test]
fn trains_on_wgpu() {
    if has_adapter() {
        trains_on("wgpu");
    }
}

/// A part of the images is evaluated on and not trained on, and stays the same one.
#[test]
fn holds_images_out() {
    let scratch = Scratch::new("held-out");
    let held_out =
        |share: &str| scratch.train(&["--steps", "3", "--held-out", share, "--knn-every", "2"]);
    let output = ibot(&held_out("0.4"));
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("4 images are held out for evaluation; 6 are trained on"),
        "{text}"
    );
    assert!(
        text.contains("after epoch 2") && text.contains("of 4 test images"),
        "{text}"
    );
    let run = scratch.path("run");
    let lines = fs::read_to_string(Path::new(&run).join("evaluations.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines
            .iter()
            .map(|line| line["step"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 2, 3]
    );
    for line in &lines {
        assert_eq!(
            (line["queries"].as_u64(), line["sample"].as_u64()),
            (Some(4), Some(4)),
            "{line}"
        );
        assert!(line["rank_me"].as_f64().unwrap() >= 1.0);
    }
    // what was trained on is the rest: two of five are held out of each class, by the seed
    let folder = ImageFolder::scan(scratch.path("images"), &FolderConfig::default()).unwrap();
    let split = stratified_split(&folder.labels(), 0.4, 0);
    let label = |at: &usize| folder.labels()[*at].unwrap();
    assert_eq!(
        split.held_out.iter().map(label).collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    let record = fs::read_to_string(Path::new(&run).join("run.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["images"].as_u64(), Some(6));
    assert_eq!(
        record["fingerprint"],
        folder.part(&split.kept).fingerprint()
    );

    let again = stdout(&ibot(&["train", "--resume", &run]));
    assert!(
        again.contains("4 images are held out") && again.contains("the run is complete"),
        "{again}"
    );
    refused(&held_out("0.2"), &["held_out: 0.4 -> 0.2", "--override"]);
    refused(
        &scratch.train(&["--steps", "3"]),
        &["held_out: 0.4 -> absent"],
    );
    let images = scratch.path("images");
    refused(
        &["train", "--resume", &run, "--val", &images],
        &["--held-out = 0.4", "--val"],
    );
    refused(&held_out("1"), &["--held-out = 1"]);
    refused(
        &scratch.train(&["--knn-every", "1"]),
        &["--knn-every", "--val", "--held-out"],
    );
}

/// k-NN is asked about the images that have a class, and they alone are counted.
#[test]
fn images_in_no_class_are_not_counted() {
    let scratch = Scratch::new("unlabeled");
    let train = scratch.train(&["--steps", "1"]);
    let val = scratch.0.join("val");
    fs::create_dir_all(val.join("odd")).unwrap();
    for (from, to) in [("1", "odd/1"), ("3", "odd/3"), ("5", "5"), ("7", "7")] {
        let from = scratch.0.join(format!("images/odd/{from}.png"));
        fs::copy(from, val.join(format!("{to}.png"))).unwrap();
    }
    let val = val.to_string_lossy().into_owned();
    let text = stdout(&ibot(&[&train[..], &["--val".to_owned(), val]].concat()));
    assert!(text.contains("of 2 test images"), "{text}");
    let lines = fs::read_to_string(scratch.0.join("run/evaluations.jsonl")).unwrap();
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&line["queries"], &line["sample"]), (&2.into(), &4.into()));
}

/// How often metrics are read changes no number, and each step has its line; also where the last one ends the run.
#[test]
fn metrics_are_read_together() {
    let scratch = Scratch::new("together");
    let images = scratch.images();
    let tiny = fs::read_to_string(scratch.path("tiny.toml")).unwrap();
    let train = |every: usize, rate: &str| {
        let (config, run) = (
            scratch.path("every.toml"),
            scratch.path(&format!("{every}-{rate}")),
        );
        let text = tiny.replace(
            "batch_size = 4",
            &format!("batch_size = 1\nmetrics_every = {every}"),
        );
        fs::write(&config, text).unwrap();
        let flags = [
            "--backend",
            "flex",
            "--steps",
            "25",
            "--learning-rate",
            rate,
        ];
        let train = [
            "train", "--data", &images, "--out", &run, "--config", &config,
        ];
        let output = ibot(&[&train[..], &flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut lines = metrics(Path::new(&run));
        for line in &mut lines {
            let line = line.as_object_mut().unwrap();
            for key in ["step_s", "data_wait_s", "images_per_s", "resident_mib"] {
                assert!(line.remove(key).is_some(), "{key}");
            }
        }
        let model = ibot::files::read_safetensors(&Path::new(&run).join("student.safetensors"));
        (lines, model.unwrap(), said)
    };
    let (each, together) = (train(1, "0.001"), train(7, "0.001"));
    assert_eq!(each.0.len(), 25);
    assert!(each == together);
    // one of the first steps is not finite
    let (each, together) = (train(1, "1e38"), train(7, "1e38"));
    assert!(each.0.len() < 7, "{}", each.0.len());
    assert_eq!(each.0, together.0);
    assert!(each.1 == together.1);
    let step = format!("the weights after step {}", each.0.len());
    assert!(
        each.2.contains(&step) && together.2.contains(&step),
        "{} {}",
        each.2,
        together.2
    );
}
