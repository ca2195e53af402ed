//! From a backbone to a classifier, and what it says of images.

use std::fs;
use std::path::Path;

use ibot::files::read_safetensors;
use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::{Scratch, has_adapter, ibot, metrics, stdout};

/// Classes by color; one name needs quotes in CSV.
const CLASSES: [(&str, [u8; 3]); 3] = [
    ("blue", [30, 60, 220]),
    ("green", [40, 200, 50]),
    ("red, dark", [190, 20, 30]),
];

/// A tiny backbone, and folders to train and to measure on.
pub struct Colors {
    pub scratch: Scratch,
    pub model: String,
    pub train: String,
    pub val: String,
}

pub fn colors(name: &str) -> Colors {
    let scratch = Scratch::new(&format!("finetune-{name}"));
    let output = ibot(&scratch.train(&["--steps", "2"]));
    assert!(output.status.success());
    let write = |folder: &str, count: u8| {
        for (class, color) in CLASSES {
            let folder = scratch.0.join(folder).join(class);
            fs::create_dir_all(&folder).unwrap();
            for at in 0..count {
                let shade = |x: u32, y: u32| ((x * 7 + y * 5 + u32::from(at) * 13) % 60) as u8;
                let image = RgbImage::from_fn(24, 20, |x, y| {
                    Rgb(color.map(|value| value.saturating_add(shade(x, y))))
                });
                image.save(folder.join(format!("{at}.png"))).unwrap();
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
    pub fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
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

    pub fn file(&self, name: &str) -> String {
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
        (&report["images"], &report["held_out"]),
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
    assert_eq!(lines[11]["most_frequent_class"], 3.0 / 9.0);

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
        let images = classified["images"].as_array().unwrap();
        let folder = |image: &Value| {
            let folder = Path::new(image["path"].as_str().unwrap()).parent().unwrap();
            Value::from(folder.file_name().unwrap().to_str().unwrap())
        };
        let right = |image: &&Value| folder(image) == image["class"];
        assert!(images.iter().all(|image| folder(image) == image["label"]));
        let test = &classified["test"];
        assert_eq!(
            (&test["tested"], test["top5"].as_f64()),
            (&9.into(), Some(1.0))
        );
        for value in ["top1", "top1_interval"] {
            assert_eq!(test[value], report[name][value], "{value}");
        }
        assert_eq!(images.len(), 9);
        assert_eq!(
            images.iter().filter(right).count() as f64 / 9.0,
            top1(&report[name])
        );
        let share = |image: &Value| image["probability"].as_f64().unwrap();
        assert!(
            images
                .iter()
                .all(|image| (1.0 / 3.0..=1.0).contains(&share(image)))
        );
        let text = fs::read_to_string(csv).unwrap();
        assert!(text.starts_with("path,class,probability,label\n"), "{text}");
        assert_eq!(text.lines().count(), 10);
        assert!(text.contains(",\"red, dark\",0."), "{text}");
        assert!(
            text.lines().skip(1).all(|line| !line.ends_with(',')),
            "{text}"
        );
    }
}

/// The same images, views and head on each backend, so the same losses.
#[test]
fn backends_agree() {
    let colors = colors("backends");
    let losses = |backend: &str| -> Vec<f64> {
        let out = format!("on-{backend}");
        let mut flags = colors.arguments(&out, &["--epochs", "2", "--json"]);
        let place = flags.iter().position(|flag| flag == "--backend").unwrap();
        flags[place + 1] = backend.into();
        let report = json(&flags);
        let epochs = report["epochs"].as_array().unwrap().iter();
        epochs
            .map(|epoch| epoch["loss"].as_f64().unwrap())
            .collect()
    };
    let expected = losses("flex");
    for backend in ["ndarray", "wgpu"] {
        if backend == "wgpu" && !has_adapter() {
            continue;
        }
        let found = losses(backend);
        let pairs = found.iter().zip(&expected);
        let far = |(found, expected): (&f64, &f64)| (found - expected).abs() > 1e-3 * expected;
        assert!(
            !pairs.into_iter().any(far),
            "{backend}: {found:?}, {expected:?}"
        );
    }
}

#[test]
fn the_files_are_model_files() {
    let colors = colors("files");
    let report = colors.run("out", &["--epochs", "2"]);
    assert_eq!(
        (&report["images"], &report["held_out"]),
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
        "15 training images",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    let text = stdout(&ibot(&["classify", "--model", best, "--data", &colors.val]));
    assert!(
        text.lines().filter(|line| line.contains(" %  ")).count() == 9,
        "{text}"
    );
    // five guesses among three classes are always right
    let tested = "3 classes; 9 images with one of them; 95 % interval\ntop-1 ";
    assert!(text.contains(tested) && !text.contains("top-5"), "{text}");
    // of other classes, and of none, there is nothing to test
    let others = colors.scratch.path("images");
    for (data, is_labeled) in [(others.clone(), true), (others + "/odd", false)] {
        let classify = ["classify", "--model", best, "--data", &data, "--json"];
        let classified = json(&arguments(&classify));
        assert!(classified.get("test").is_none(), "{classified}");
        let label = &classified["images"][0]["label"];
        assert_eq!(label.is_string(), is_labeled, "{label}");
    }
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
    let last = ibot::files::model::read_model(
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
        read_safetensors(&colors.scratch.0.join(out).join("last.safetensors")).unwrap()
    });
    assert!(files[0] == files[1], "the same seed, other weights");
    let fast = ["--epochs", "2", "--freeze", "--learning-rate", "0.01"];
    let report = colors.run("frozen", &fast);
    let frozen = read_safetensors(report["last"]["file"].as_str().unwrap().as_ref()).unwrap();
    for (name, tensor) in read_safetensors(colors.model.as_ref()).unwrap() {
        assert_eq!(frozen[&name], tensor, "{name}");
    }
    assert!(frozen["head.weight"].values.iter().any(|x| x.abs() > 1e-4));
}

/// An image that cannot be decoded is named and left out, whichever part it is in.
#[test]
fn damaged_images_are_left_out() {
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
