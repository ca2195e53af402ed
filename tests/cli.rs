//! The `ibot` command as a user meets it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

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

    /// Nested folders of PNGs, half of them with transparency, and a file that is no picture.
    fn pictures(&self) -> String {
        for at in 0..10u8 {
            let class = if at % 2 == 0 { "even/deep/er" } else { "odd" };
            let folder = self.0.join("pictures").join(class);
            fs::create_dir_all(&folder).unwrap();
            let alpha = if at < 5 { 255 } else { 90 };
            let picture = RgbaImage::from_fn(24, 20, |x, y| {
                Rgba([x as u8 * 9, y as u8 * 11, at * 25, alpha])
            });
            picture.save(folder.join(format!("{at}.png"))).unwrap();
        }
        fs::write(self.0.join("pictures/notes.txt"), "not a picture").unwrap();
        fs::write(self.0.join("pictures/odd/cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::write(self.0.join("tiny.toml"), TINY).unwrap();
        self.path("pictures")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn ibot(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ibot"));
    command.args(arguments);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
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

fn trains_on(backend: &str) {
    let scratch = Scratch::new(backend);
    let (pictures, run) = (scratch.pictures(), scratch.path("run"));
    let config = scratch.path("tiny.toml");
    let train = [
        "train", "--data", &pictures, "--out", &run, "--config", &config,
    ];
    let output = ibot(&[&train[..], &["--backend", backend, "--steps", "3"]].concat());
    let text = stdout(&output);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(&format!("backend {backend}")), "{first}");
    assert!(
        text.contains("cut.png"),
        "the picture that was skipped is named: {text}"
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
    let student = ibot::weights::read_safetensors(&run.join("student.safetensors")).unwrap();
    let teacher = ibot::weights::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert_eq!(student["patch_embed.proj.weight"].shape, [16, 3, 8, 8]);
    assert!(student.keys().eq(teacher.keys()) && student != teacher);

    // the written configuration repeats the run, number for number
    let again = scratch.path("again");
    let config = run.join("config.toml");
    let config = config.to_string_lossy();
    let output = ibot(&[
        "train",
        "--data",
        &pictures,
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
        &pictures,
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
    if ibot::device::list_adapters().is_empty() {
        use std::io::Write as _;
        let required = std::env::var("IBOT_REQUIRE_WGPU").is_ok_and(|value| value == "1");
        assert!(!required, "IBOT_REQUIRE_WGPU is 1, and there is no adapter");
        std::io::stderr()
            .write_all(b"SKIPPED: NO WGPU ADAPTER\n")
            .unwrap();
        return;
    }
    trains_on("wgpu");
}

#[test]
fn refuses_what_cannot_work() {
    let scratch = Scratch::new("refusals");
    let (pictures, config) = (scratch.pictures(), scratch.path("tiny.toml"));
    let empty = scratch.path("empty");
    fs::create_dir_all(Path::new(&empty).join("inside")).unwrap();
    fs::write(Path::new(&empty).join("inside/readme.md"), "text").unwrap();
    let out = scratch.path("never");
    let train = |more: &[&str]| {
        let mut arguments = vec!["train", "--backend", "flex", "--out", &out];
        arguments.extend(more);
        arguments.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", "/no/such/folder"], &["/no/such/folder"]),
        (&["--data", &empty], &["empty"]),
        (
            &["--data", &pictures, "--encoder", "vit_smal_patch16_224"],
            &["vit_small_patch16_224"],
        ),
        (
            &["--data", &pictures, "--preset", "best"],
            &["best", "stable-pretraining"],
        ),
        (
            &[
                "--data",
                &pictures,
                "--config",
                &config,
                "--batch-size",
                "64",
            ],
            &["batch_size", "64"],
        ),
        (
            &[
                "--data",
                &pictures,
                "--config",
                &config,
                "--image-size",
                "20",
            ],
            &["image_size = 20"],
        ),
        (
            &[
                "--data",
                &pictures,
                "--config",
                &config,
                "--pretrained",
                &config,
            ],
            &["tiny.toml", "safetensors"],
        ),
        (
            &["--data", &pictures, "--config", "missing.toml"],
            &["missing.toml"],
        ),
    ];
    for (more, parts) in cases {
        let arguments = train(more);
        refused(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            parts,
        );
        assert!(!Path::new(&out).exists(), "{more:?} left a run folder");
    }
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let scratch = Scratch::new("overwrite");
    let (pictures, config, run) = (
        scratch.pictures(),
        scratch.path("tiny.toml"),
        scratch.path("run"),
    );
    let train = [
        "train",
        "--data",
        &pictures,
        "--out",
        &run,
        "--config",
        &config,
        "--backend",
        "flex",
        "--steps",
        "1",
    ];
    assert!(ibot(&train).status.success());
    let before = fs::read(Path::new(&run).join("metrics.jsonl")).unwrap();
    refused(&train, &["holds a run already", "--out"]);
    assert_eq!(
        fs::read(Path::new(&run).join("metrics.jsonl")).unwrap(),
        before
    );
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let scratch = Scratch::new("diverge");
    let (pictures, config, run) = (
        scratch.pictures(),
        scratch.path("tiny.toml"),
        scratch.path("run"),
    );
    let train = [
        "train",
        "--data",
        &pictures,
        "--out",
        &run,
        "--config",
        &config,
        "--backend",
        "flex",
        "--steps",
        "50",
        "--learning-rate",
        "1e38",
    ];
    refused(&train, &["step ", "is ", "the state after step", "run"]);
    let run = Path::new(&run);
    let written = ibot::weights::read_safetensors(&run.join("teacher.safetensors")).unwrap();
    assert!(!written.is_empty());
    assert!(metrics(run).iter().all(|line| line["loss"].is_number()));
}

/// Ctrl-C finishes the step, writes the backbones and exits with 130.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_the_state() {
    let scratch = Scratch::new("interrupt");
    let (pictures, config, run) = (
        scratch.pictures(),
        scratch.path("tiny.toml"),
        scratch.path("run"),
    );
    let train = [
        "train",
        "--data",
        &pictures,
        "--out",
        &run,
        "--config",
        &config,
        "--backend",
        "flex",
        "--steps",
        "1000000",
    ];
    let mut child = command(&train)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = Path::new(&run).join("metrics.jsonl");
    let started = std::time::Instant::now();
    while fs::metadata(&log).map_or(0, |file| file.len()) < 1000 {
        assert!(started.elapsed().as_secs() < 60, "no step in a minute");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let run = Path::new(&run);
    assert!(run.join("teacher.safetensors").exists() && run.join("student.safetensors").exists());
    assert!(!metrics(run).is_empty());
}

#[test]
fn prints_a_configuration_that_it_reads() {
    let scratch = Scratch::new("config");
    let output = ibot(&[
        "train",
        "--print-config",
        "--data",
        "x",
        "--seed",
        "9",
        "--encoder",
        "vit_tiny_patch16_224",
    ]);
    assert!(output.status.success());
    let text = stdout(&output);
    for line in [
        "seed = 9",
        "encoder_name = \"vit_tiny_patch16_224\"",
        "n_cls_prototypes = 65536",
        "mask_ratio = 0.3",
        "temperature_teacher_warmup = 0.04",
        "ema_decay_start = 0.996",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let file = scratch.path("printed.toml");
    fs::write(&file, &text).unwrap();
    assert_eq!(
        stdout(&ibot(&[
            "train",
            "--print-config",
            "--data",
            "x",
            "--config",
            &file
        ])),
        text
    );
}

#[test]
fn lists_devices() {
    let output = ibot(&["devices"]);
    assert!(output.status.success());
    assert!(
        stdout(&output).contains("auto takes backend "),
        "{}",
        stdout(&output)
    );
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&ibot(&["devices", "--json"]))).unwrap();
    assert_eq!(
        json.as_array().unwrap().len(),
        ibot::device::list_adapters().len()
    );
}

#[test]
fn bench_prints_one_object_a_step() {
    let output = ibot(&[
        "bench",
        "--backend",
        "flex",
        "--encoder",
        "vit_tiny_patch16_224",
        "--image-size",
        "32",
        "--batch-size",
        "1",
        "--steps",
        "2",
        "--n-cls-prototypes",
        "64",
        "--n-patch-prototypes",
        "32",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = stdout(&output);
    let steps: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(steps.len(), 2);
    for key in ["forward_s", "backward_s", "optimizer_s", "ema_s", "total_s"] {
        assert!(
            steps
                .iter()
                .all(|step| step[key].as_f64().is_some_and(|s| s > 0.0)),
            "{key}: {text}"
        );
    }
}
