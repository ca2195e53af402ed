//! The `ibot` command as a user meets it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::too_many_lines, reason = "a test may be a list of cases")]

mod adapt;
mod best_teachers;
mod cloud;
mod doctor;
mod documents;
mod endings;
mod evaluation;
mod export;
mod features;
mod finetune;
mod finetune_endings;
mod finetune_resuming;
#[path = "../../../../tests/gpu/mod.rs"]
mod gpu;
mod hostile;
mod hub;
mod index;
mod information;
mod inventory;
mod models;
mod normalization;
mod outliers;
mod output;
mod pages;
mod patch_files;
mod patches;
mod plan;
mod precision;
mod probe;
mod ranges;
mod rank_models;
mod ranks;
mod refusals;
mod replaced;
mod resume;
mod resume_options;
mod run_folder;
mod search;
mod servers;
mod shards;
mod soak;
mod start;
#[cfg(unix)]
mod stopping;
mod stored;
mod tiles;
mod training;
mod transformers;
mod uploads;
mod verify;
mod work;
mod work_first;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgba, RgbaImage};

/// A transformer that a software GPU steps in a second.
const TINY: &str = r#"
batch_size = 4
[method]
image_size = 16
projector_hidden_dim = 16
projector_bottleneck_dim = 8
n_cls_prototypes = 24
n_patch_prototypes = 12
[method.vit]
patch_size = 8
embed_dim = 16
depth = 1
num_heads = 2
"#;

/// A folder of this test alone, removed when it passes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ibot-cli-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    /// Nested folders of PNGs, half of them with transparency, and a file that is no image.
    fn images(&self) -> String {
        for at in 0..10u8 {
            let class = if at % 2 == 0 { "even/deep/er" } else { "odd" };
            let folder = self.0.join("images").join(class);
            fs::create_dir_all(&folder).unwrap();
            let alpha = if at < 5 { 255 } else { 90 };
            let image = RgbaImage::from_fn(24, 20, |x, y| {
                Rgba([x as u8 * 9, y as u8 * 11, at * 25, alpha])
            });
            image.save(folder.join(format!("{at}.png"))).unwrap();
        }
        fs::write(self.0.join("images/notes.txt"), "not an image").unwrap();
        fs::write(self.0.join("images/odd/cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::write(self.0.join("tiny.toml"), TINY).unwrap();
        self.path("images")
    }

    /// Arguments of a tiny run on Flex into `run`, with the images made.
    fn train(&self, more: &[&str]) -> Vec<String> {
        let (images, run, config) = (self.images(), self.path("run"), self.path("tiny.toml"));
        let flags = [
            "train",
            "--backend",
            "flex",
            "--data",
            &images,
            "--out",
            &run,
            "--config",
            &config,
        ];
        flags.iter().chain(more).map(ToString::to_string).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn ibot<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    command(arguments).output().unwrap()
}

/// A command on a model and images, on Flex.
fn on_model<'a>(command: &'a str, model: &'a str, images: &'a str) -> [&'a str; 7] {
    [
        command,
        "--data",
        images,
        "--model",
        model,
        "--backend",
        "flex",
    ]
}

/// The variable that says where the cache folder is.
const CACHE_VARIABLE: &str = if cfg!(windows) {
    "LOCALAPPDATA"
} else if cfg!(target_os = "macos") {
    "HOME"
} else {
    "XDG_CACHE_HOME"
};

fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibot"));
    command.args(arguments);
    command
}

/// Whether there is a GPU, or a program that plays one. Without one the test is skipped, unless IBOT_REQUIRE_WGPU is 1.
fn has_adapter() -> bool {
    if !ibot::device::list_adapters().unwrap().is_empty() {
        return true;
    }
    let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
    assert!(!required, "IBOT_REQUIRE_WGPU is 1, and there is no adapter");
    // not `eprintln!`: the test harness would keep it for itself
    let line = b"SKIPPED: NO WGPU ADAPTER\n";
    std::io::Write::write_all(&mut std::io::stderr(), line).unwrap();
    false
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it prints.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = ibot(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    stdout(&output)
}

#[track_caller]
fn refused<S: AsRef<OsStr>>(arguments: &[S], parts: &[&str]) {
    let output = ibot(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
