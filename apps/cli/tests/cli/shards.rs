//! Every command takes shards as it takes the folder in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tar::Builder;

use crate::resume::{assert_same, wait_for_a_step};
use crate::{Scratch, command, ibot, succeeds};

/// The files of a folder, relative to it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_path_buf());
            }
        }
    }
    found
}

/// The images of `scratch` in archives of four files; what stands for all of them.
pub fn packed(scratch: &Scratch) -> String {
    let folder = PathBuf::from(scratch.images());
    for (number, files) in files(&folder).chunks(4).enumerate() {
        let file = File::create(scratch.path(&format!("set-{number:02}.tar"))).unwrap();
        let mut archive = Builder::new(file);
        for name in files {
            let mut file = File::open(folder.join(name)).unwrap();
            archive.append_file(name, &mut file).unwrap();
        }
        archive.finish().unwrap();
    }
    scratch.path("set-{00..02}.tar")
}

fn trained(scratch: &Scratch, data: &str, out: &str, more: &[&str]) -> Vec<String> {
    let config = scratch.path("tiny.toml");
    let mut arguments = ["train", data, "--backend", "flex", "--config", &config].to_vec();
    let out = scratch.path(out);
    arguments.extend(["--out", &out]);
    arguments.extend(more);
    arguments.into_iter().map(str::to_owned).collect()
}

/// What a command says as JSON, with the names that images have in the folder.
fn said(scratch: &Scratch, arguments: &[&str]) -> Value {
    let mut text = succeeds(&[arguments, &["--json"]].concat());
    let images = scratch.path("images");
    text = text.replace(&scratch.path("set-{00..02}.tar"), &images);
    for number in 0..3 {
        text = text.replace(&scratch.path(&format!("set-{number:02}.tar")), &images);
    }
    serde_json::from_str(&text).unwrap()
}

/// Without what depends on the machine.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(entries) => {
            entries.retain(|key, _| !key.ends_with("_s") && !key.contains("second"));
            let inner = entries.values_mut();
            inner.for_each(|value| *value = without_times(value.take()));
        }
        Value::Array(values) => {
            values
                .iter_mut()
                .for_each(|value| *value = without_times(value.take()));
        }
        _ => {}
    }
    value
}

#[test]
fn commands_say_of_shards_what_they_say_of_the_folder() {
    let scratch = Scratch::new("shards");
    let shards = packed(&scratch);
    let folder = scratch.path("images");
    let steps = ["--steps", "3", "--held-out", "0.3"];
    for (data, out) in [(&folder, "run"), (&shards, "run-of-shards")] {
        let output = ibot(&trained(&scratch, data, out, &steps));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
    }
    let [run, of_shards] = ["run", "run-of-shards"].map(|name| scratch.0.join(name));
    assert_same(&of_shards, &run, 3);
    let model = scratch.path("run/teacher.safetensors");
    let with_model = ["--backend", "flex", "--model", &model];
    // the archive that holds this image
    let inside = (0..3)
        .map(|number| scratch.path(&format!("set-{number:02}.tar/odd/1.png")))
        .find(|path| ibot::data::decode::decode_rgb(Path::new(path), 1 << 20).is_ok())
        .unwrap();
    let query = format!("{folder}/odd/1.png");
    let [map, outliers, sheets, page] =
        ["map.html", "outliers", "sheets", "page"].map(|name| scratch.path(name));
    let cases: [(&str, &[&str]); 8] = [
        ("data", &[]),
        ("embed", &["--out", "features.csv"]),
        ("knn", &["--held-out", "0.3", "--k", "1"]),
        ("probe", &["--held-out", "0.3"]),
        ("cluster", &["--clusters", "2", "--out", &sheets]),
        ("search", &["--query", "QUERY", "--top", "3"]),
        ("outliers", &["--out", &outliers]),
        ("map", &["--out", &map]),
    ];
    for (name, more) in cases {
        let of = |data: &str, query: &str, features: &str| {
            let images: &[&str] = match name {
                "search" => &[name, "--data", data],
                _ => &[name, data],
            };
            let mut arguments = [images, more].concat();
            for argument in &mut arguments {
                *argument = match *argument {
                    "QUERY" => query,
                    "features.csv" => features,
                    other => other,
                };
            }
            if name != "data" {
                arguments.extend(with_model);
            }
            println!("{}", arguments.join(" "));
            let said = without_times(said(&scratch, &arguments)).to_string();
            said.replace(features, "features.csv")
        };
        let [a, b] = ["a.csv", "b.csv"].map(|name| scratch.path(name));
        assert_eq!(of(&shards, &inside, &b), of(&folder, &query, &a), "{name}");
    }
    // the same features, row by row
    let features = |name: &str| {
        let text = fs::read_to_string(scratch.path(name)).unwrap();
        let rows = text.lines().skip(1);
        rows.map(|row| row.split_once(',').unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(features("b.csv"), features("a.csv"));
    assert_eq!(features("a.csv").len(), 10);
    // images in shards are drawn by their names
    let mut visualize = vec!["visualize", "--image", inside.as_str(), "--out", &page];
    visualize.extend(with_model);
    succeeds(&visualize);
    let classifier = scratch.path("classifier");
    let mut finetune = vec!["finetune", &shards, "--out", &classifier];
    finetune.extend(["--epochs", "1", "--held-out", "0.3"]);
    finetune.extend(with_model);
    succeeds(&finetune);
}

/// A run on shards that is killed ends in the bits of one on the folder that was not.
#[test]
fn killed_runs_on_shards_go_on_bit_for_bit() {
    const STEPS: &str = "301"; // not a multiple of the epoch, nor of the checkpoints
    let scratch = Scratch::new("killed-on-shards");
    let shards = packed(&scratch);
    let flags = ["--steps", STEPS, "--checkpoint-every", "7"];
    let whole = trained(&scratch, &scratch.path("images"), "undisturbed", &flags);
    assert!(ibot(&whole).status.success());
    let [run, undisturbed] = ["run", "undisturbed"].map(|name| scratch.0.join(name));
    for kill in 0..5 {
        let workers = (1 + kill % 3).to_string();
        let flags = [&flags[..], &["--workers", &workers]].concat();
        let mut child = command(&trained(&scratch, &shards, "run", &flags));
        let mut child = child.stdout(Stdio::null()).spawn().unwrap();
        let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
        wait_for_a_step(&run, before.saturating_sub(7 * 600));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // as an interrupted run says: without the images, which it knows
    let run_folder = scratch.path("run");
    succeeds(&["train", "--resume", &run_folder, "--backend", "flex"]);
    assert_same(&run, &undisturbed, 301);
}
