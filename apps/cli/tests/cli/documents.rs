//! The command blocks of README.md and docs/ run as they are written, with a tiny model and images of this test.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma};

use crate::{Scratch, TINY, command, succeeds};

/// Opens a block of commands. One that is not run says why: `sh not run: REASON`.
const OPENING: &str = "\n```sh";
const NOT_RUN: &str = " not run: ";
/// Flags that set the size of a model or a run: left out, and `SMALL` is given instead.
const SIZES: [&str; 3] = ["--epochs", "--batch-size", "--image-size"];
const SMALL: [&str; 6] = ["--config", "tiny.toml", "--backend", "flex", "--steps", "2"];

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    docs.chain([root.join("README.md"), root.join("CONTRIBUTING.md")])
        .collect()
}

/// What follows the opening of each block of commands in a page: the rest of its line, and its lines.
fn blocks(page: &Path) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(page).unwrap().replace("\r\n", "\n");
    let blocks = text.split(OPENING).skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    let parts = blocks.map(|block| {
        let mut lines = block.lines().map(str::to_owned);
        (lines.next().unwrap_or_default(), lines.collect())
    });
    parts.collect()
}

/// The folders and files that the pages name, and a run of two steps.
fn prepared(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    for folder in ["LABELED", "DRAWINGS", "IMAGES", "PARTS", "GOOD"] {
        scratch.images();
        fs::remove_file(scratch.0.join("images/odd/cut.png")).unwrap();
        fs::rename(scratch.0.join("images"), scratch.0.join(folder)).unwrap();
    }
    for file in ["a.png", "b.png", "cat.png"] {
        fs::copy(scratch.0.join("IMAGES/odd/1.png"), scratch.0.join(file)).unwrap();
    }
    fs::create_dir(scratch.0.join("IMAGES/cats")).unwrap();
    let cat = scratch.0.join("IMAGES/cats/1.png");
    fs::rename(scratch.0.join("IMAGES/odd/3.png"), cat).unwrap();
    // deep enough for features of four blocks
    let tiny = TINY.replace("depth = 1", "depth = 4");
    fs::write(scratch.0.join("tiny.toml"), tiny).unwrap();
    for class in ["even/deep/er", "odd", "cats"] {
        let masks = scratch.0.join("MASKS").join(class);
        fs::create_dir_all(&masks).unwrap();
        for entry in fs::read_dir(scratch.0.join("IMAGES").join(class)).unwrap() {
            let mask = GrayImage::from_fn(24, 20, |x, _| Luma([u8::from(x > 10)]));
            mask.save(masks.join(entry.unwrap().file_name())).unwrap();
        }
    }
    scratch
}

/// A run at `runs/first` with its evaluations, and its teacher beside it.
fn with_run(scratch: &Scratch) {
    let (images, run) = (scratch.path("IMAGES"), scratch.path("runs/first"));
    let (val, config) = (scratch.path("LABELED"), scratch.path("tiny.toml"));
    let mut arguments = vec!["train", "--data", &images, "--val", &val, "--out", &run];
    arguments.extend(["--config", &config, "--backend", "flex", "--steps", "2"]);
    succeeds(&arguments);
    let teacher = scratch.0.join("teacher.safetensors");
    fs::copy(scratch.0.join("runs/first/teacher.safetensors"), teacher).unwrap();
}

/// A classifier at `runs/classifier`, of a prepared teacher.
fn with_classifier(scratch: &Scratch) {
    let val = scratch.path("LABELED");
    let [teacher, classifier] =
        ["teacher.safetensors", "runs/classifier"].map(|of| scratch.path(of));
    let mut finetune = vec!["finetune", &val, "--model", &teacher, "--out", &classifier];
    finetune.extend(["--backend", "flex", "--epochs", "1"]);
    succeeds(&finetune);
}

/// The arguments of a line, with sizes of this test for what trains.
fn arguments(line: &str) -> Vec<String> {
    let (line, _) = line.split_once(" #").unwrap_or((line, ""));
    // what is quoted is one word
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    let mut words: Vec<String> = words.collect();
    assert_eq!(words.remove(0), "ibot", "{line}");
    while let Some(at) = words.iter().position(|word| SIZES.contains(&word.as_str())) {
        words.drain(at..at + 2);
    }
    if words[0] == "train" && !words.contains(&"--resume".to_owned()) {
        words.extend(SMALL.map(str::to_owned));
    }
    words
}

#[test]
fn command_blocks_run() {
    let (mut runs, mut wrong) = (0, Vec::new());
    for page in pages() {
        let name = page.file_stem().unwrap().to_str().unwrap();
        let blocks = blocks(&page);
        let blocks = blocks.iter().filter(|(mark, _)| !mark.starts_with(NOT_RUN));
        let lines: Vec<&String> = blocks.flat_map(|(_, lines)| lines).collect();
        if lines.is_empty() {
            continue;
        }
        let scratch = prepared(&format!("documents-{name}"));
        with_run(&scratch);
        if !lines.iter().any(|line| line.starts_with("ibot finetune")) {
            with_classifier(&scratch);
        }
        for line in lines {
            if !line.starts_with("ibot ") {
                wrong.push(format!("{name}: not marked as not run: {line}"));
                continue;
            }
            let output = command(&arguments(line)).current_dir(&scratch.0).output();
            let output = output.unwrap();
            runs += 1;
            if !output.status.success() {
                let message = String::from_utf8_lossy(&output.stderr);
                wrong.push(format!("{name}: {line}\n    {}", message.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        runs > 20,
        "only {runs} command lines found: the search is broken"
    );
}
