//! From a backbone to a classifier, and what it says of pictures.

use std::fs;
use std::path::Path;

use ibot::weights::read_safetensors;
use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::{Scratch, ibot, metrics, refused, stdout};

/// Classes by color; one name needs quotes in CSV.
const CLASSES: [(&str, [u8; 3]); 3] = [
    ("blue", [30, 60, 220]),
    ("green", [40, 200, 50]),
    ("red, dark", [190, 20, 30]),
];

/// A tiny backbone, and folders to train and to measure on.
struct Colors {
    scratch: Scratch,
    model: String,
    train: String,
    val: String,
}

fn colors(name: &str) -> Colors {
    let scratch = Scratch::new(&format!("finetune-{name}"));
    let output = ibot(&scratch.train(&["--steps", "2"]));
    assert!(output.status.success());
    let write = |folder: &str, count: u8| {
        for (class, color) in CLASSES {
            let folder = scratch.0.join(folder).join(class);
            fs::create_dir_all(&folder).unwrap();
            for at in 0..count {
                let shade = |x: u32, y: u32| ((x * 7 + y * 5 + u32::from(at) * 13) % 60) as u8;
                let picture = RgbImage::from_fn(24, 20, |x, y| {
                    Rgb(color.map(|value| value.saturating_add(shade(x, y))))
                });
                picture.save(folder.join(format!("{at}.png"))).unwrap();
            }
        }
    };
    write("colors", 6);
    write("val", 3);
    Colors {
        model: scratch.path("run/teacher.safetensors"),
        train: scratch.path("colors"),
        val: scratch.path("val"),
        scratch,
    }
}

impl Colors {
    /// Arguments of a run on Flex into the folder `out`.
    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.scratch.path(out);
        let flags = [
            "finetune",
            "--model",
            &self.model,
            "--backend",
            "flex",
            "--data",
            &self.train,
            "--out",
            &out,
            "--batch-size",
            "5",
        ];
        let all = flags.iter().chain(more);
        all.map(ToString::to_string).collect()
    }

    /// What a run answers as JSON.
    fn run(&self, out: &str, more: &[&str]) -> Value {
        json(&self.arguments(out, &[more, &["--json"]].concat()))
    }

    fn file(&self, name: &str) -> String {
        self.scratch.path(name)
    }
}

fn json(arguments: &[String]) -> Value {
    let output = ibot(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn arguments(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// What learns the colors within a second.
const FAST: [&str; 6] = [
    "--epochs",
    "12",
    "--learning-rate",
    "0.3",
    "--layer-decay",
    "0.9",
];

#[test]
fn a_classifier_comes_out_and_says_the_same_again() {
    let colors = colors("whole");
    let report = colors.run("out", &[&FAST[..], &["--val", &colors.val]].concat());
    let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
    assert_eq!(report["classes"], serde_json::json!(names));
    assert_eq!(
        (&report["pictures"], &report["held_out"]),
        (&18.into(), &9.into())
    );
    let lines = metrics(&colors.scratch.0.join("out"));
    assert_eq!(Value::Array(lines.clone()), report["epochs"]);
    assert_eq!(lines.len(), 12);
    assert_eq!(
        (&lines[11]["epoch"], &lines[11]["step"]),
        (&12.into(), &48.into())
    );
    for key in [
        "loss",
        "train_accuracy",
        "learning_rate",
        "images_per_s",
        "epoch_s",
    ] {
        let is_positive = |line: &Value| line[key].as_f64().is_some_and(|value| value > 0.0);
        assert!(lines.iter().all(is_positive), "{key}");
    }
    let top1 = |line: &Value| line["top1"].as_f64().unwrap();
    let best = lines.iter().map(top1).fold(0.0, f64::max);
    assert!(best > 0.8, "{lines:?}");
    assert_eq!(top1(&report["best"]), best);
    assert_eq!(report["last"]["epoch"], 12);
    assert!(
        lines.iter().all(|line| line["top5"] == 1.0),
        "of three classes"
    );

    // the files of the best and the last epoch reproduce their accuracy
    for name in ["best", "last"] {
        let file = report[name]["file"].as_str().unwrap();
        let csv = colors.file("classes.csv");
        let classify = [
            "classify",
            "--model",
            file,
            "--data",
            &colors.val,
            "--backend",
            "flex",
            "--out",
            &csv,
            "--json",
        ];
        let classified = json(&arguments(&classify));
        let pictures = classified["pictures"].as_array().unwrap();
        let right = |picture: &&Value| {
            let folder = Path::new(picture["path"].as_str().unwrap())
                .parent()
                .unwrap();
            folder.file_name().unwrap().to_str() == picture["class"].as_str()
        };
        assert_eq!(pictures.len(), 9);
        assert_eq!(
            pictures.iter().filter(right).count() as f64 / 9.0,
            top1(&report[name])
        );
        let share = |picture: &Value| picture["probability"].as_f64().unwrap();
        assert!(
            pictures
                .iter()
                .all(|picture| (1.0 / 3.0..=1.0).contains(&share(picture)))
        );
        let text = fs::read_to_string(csv).unwrap();
        assert!(text.starts_with("path,class,probability\n"), "{text}");
        assert_eq!(text.lines().count(), 10);
        assert!(text.contains(",\"red, dark\",0."), "{text}");
    }
}

#[test]
fn the_files_are_model_files() {
    let colors = colors("files");
    let report = colors.run("out", &["--epochs", "2"]);
    assert_eq!(
        (&report["pictures"], &report["held_out"]),
        (&15.into(), &3.into())
    );
    let best = report["best"]["file"].as_str().unwrap();
    let tensors = read_safetensors(best.as_ref()).unwrap();
    assert_eq!(tensors["head.weight"].shape, [3, 16]);
    assert_eq!(tensors["head.bias"].shape, [3]);
    let backbone = read_safetensors(colors.model.as_ref()).unwrap();
    let others = tensors.keys().filter(|name| !name.starts_with("head."));
    assert!(others.eq(backbone.keys()));
    let text = stdout(&ibot(&["inspect", best]));
    for said in [
        "classifier of custom",
        "3 classes: blue, green, red, dark",
        "15 pictures",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    let text = stdout(&ibot(&["classify", "--model", best, "--data", &colors.val]));
    assert!(
        text.lines().filter(|line| line.contains(" %  ")).count() == 9,
        "{text}"
    );
    // a backbone to the other commands, and to another classifier
    let out = colors.file("features.npy");
    let embed = [
        "embed",
        "--model",
        best,
        "--data",
        &colors.val,
        "--out",
        &out,
        "--json",
    ];
    assert_eq!(json(&arguments(&embed))["width"], 16);
    let knn = [
        "knn",
        "--model",
        best,
        "--data",
        &colors.train,
        "--k",
        "1",
        "--json",
    ];
    assert_eq!(json(&arguments(&knn))["classes"], 3);
    let again = colors.file("again");
    let finetune = [
        "finetune",
        "--model",
        best,
        "--data",
        &colors.train,
        "--out",
        &again,
        "--epochs",
        "1",
        "--image-size",
        "32",
        "--json",
    ];
    let report = json(&arguments(&finetune));
    let last = ibot::model::read_model(
        report["last"]["file"].as_str().unwrap().as_ref(),
        &Default::default(),
    );
    assert_eq!(last.unwrap().preprocessing.image_size, 32);
}

#[test]
fn a_run_repeats_and_freezes() {
    let colors = colors("repeat");
    let files = ["one", "other"].map(|out| {
        let workers = if out == "one" { "1" } else { "3" };
        colors.run(out, &["--epochs", "2", "--seed", "7", "--workers", workers]);
        fs::read(colors.scratch.0.join(out).join("last.safetensors")).unwrap()
    });
    assert!(files[0] == files[1], "the same seed, other weights");
    let report = colors.run("frozen", &["--epochs", "2", "--freeze"]);
    let frozen = read_safetensors(report["last"]["file"].as_str().unwrap().as_ref()).unwrap();
    for (name, tensor) in read_safetensors(colors.model.as_ref()).unwrap() {
        assert_eq!(frozen[&name], tensor, "{name}");
    }
    assert!(frozen["head.weight"].values.iter().any(|x| x.abs() > 1e-4));
}

/// A picture that cannot be decoded is named and left out, whichever part it is in.
#[test]
fn damaged_pictures_are_left_out() {
    let colors = colors("damaged");
    for folder in ["colors", "val"] {
        let file = colors.scratch.0.join(folder).join("green/0.png");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }
    let flags = ["--epochs", "2", "--val", &colors.val, "--json"];
    let output = ibot(&colors.arguments("out", &flags));
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{notes}");
    assert_eq!(notes.matches("skipped").count() - 2, 2, "{notes}"); // two of each folder's summary
    let lines = metrics(&colors.scratch.0.join("out"));
    assert!(lines.iter().all(|line| line["tested"] == 8), "{lines:?}");
}

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
    ibot::weights::write_safetensors(&plain, &tensors).unwrap();
    let [plain, single, one, strange, flat] =
        ["plain.safetensors", "single", "one", "strange", "flat"].map(|name| colors.file(name));
    let out = colors.file("never");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &one], &["one", "fewer than two classes"]),
        (&["--data", &single], &["single", "class lonely", "--val"]),
        (&["--val", &strange], &["strange", "zebra"]),
        (&["--val", &flat], &["flat", "no picture with a class"]),
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
    let last = ibot::model::read_model(&out.join("last.safetensors"), &Default::default());
    let card = last.unwrap().card.unwrap();
    assert!(card.step as u64 >= made, "{} after {made}", card.step);
    assert!(out.join("best.safetensors").exists());
}
