//! Runs that are killed, stopped, damaged or starved go on as if nothing had been.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ibot::random::{Random, Stream};
use ibot::train::RunRecord;
use serde_json::Value;

use crate::{Scratch, TINY, command, ibot, metrics, refused, stdout};

/// What a line of metrics says of the computation, not of the machine.
fn numbers(run: &Path) -> Vec<Value> {
    let mut lines = metrics(run);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for key in [
            "step_s",
            "data_wait_s",
            "images_per_s",
            "resident_mib",
            "gpu_in_use_mib",
        ] {
            line.remove(key).unwrap();
        }
    }
    lines
}

/// Both runs end in the same bits, and have each step once.
#[track_caller]
pub fn assert_same(run: &Path, undisturbed: &Path, steps: usize) {
    let state = format!("checkpoints/step-{steps:09}/state.safetensors");
    for file in [&state, "teacher.safetensors", "student.safetensors"] {
        let bytes = |run: &Path| fs::read(run.join(file)).unwrap();
        assert!(bytes(run) == bytes(undisturbed), "{file} differs");
    }
    let found = numbers(run);
    let made: Vec<u64> = found
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(made, (1..=steps as u64).collect::<Vec<_>>());
    assert_eq!(found, numbers(undisturbed));
}

/// Waits until the run has written more metrics than it had.
pub fn wait_for_a_step(run: &Path, before: u64) {
    let started = Instant::now();
    while fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len()) <= before {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no step in a minute"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Forty times SIGKILL, amid steps, checkpoints and starts; each life has another number of workers.
#[test]
fn killed_runs_go_on_bit_for_bit() {
    const KILLS: usize = 40;
    const STEPS: usize = 1501; // not a multiple of the epoch, nor of the checkpoints
    let scratch = Scratch::new("killed");
    let steps = STEPS.to_string();
    let flags = ["--steps", &steps, "--checkpoint-every", "7"];
    assert!(ibot(&scratch.train(&flags)).status.success());
    let undisturbed = scratch.0.join("undisturbed");
    fs::rename(scratch.0.join("run"), &undisturbed).unwrap();
    let run = scratch.0.join("run");
    let seed = std::process::id().into();
    println!("kills by seed {seed}");
    let mut random = Random::new(seed, 0, 0, Stream::Shuffle);
    let (mut kills, mut completed) = (0, 0);
    while kills < KILLS {
        let workers = (1 + kills % 3).to_string();
        let arguments = scratch.train(&[&flags[..], &["--workers", &workers]].concat());
        let mut child = command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        let pause = if random.chance(0.25) {
            random.below(50) // perhaps before the first step
        } else {
            let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
            // the start cuts the file to its last checkpoint
            wait_for_a_step(&run, before.saturating_sub(7 * 600));
            random.below(15)
        };
        std::thread::sleep(Duration::from_millis(pause as u64));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            assert_same(&run, &undisturbed, STEPS);
            fs::remove_dir_all(&run).unwrap();
            completed += 1;
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
    }
    println!("{completed} runs came to their end before they were killed");
    assert!(ibot(&scratch.train(&flags)).status.success());
    assert_same(&run, &undisturbed, STEPS);
}

/// `--resume` needs nothing but the folder; N steps are N/2 and N/2 on NdArray, and on wgpu too.
fn resumes_by_its_folder(backend: &str, more_settings: &str) {
    let scratch = Scratch::new(&format!("resume-{backend}"));
    let (images, config) = (scratch.images(), scratch.path("more.toml"));
    fs::write(&config, format!("{TINY}{more_settings}")).unwrap();
    let (run, undisturbed) = (scratch.path("run"), scratch.path("undisturbed"));
    let train = |out: &str, more: &[&str]| {
        let flags = [
            "train",
            "--backend",
            backend,
            "--data",
            &images,
            "--out",
            out,
            "--config",
            &config,
            "--steps",
            "7",
            "--checkpoint-every",
            "3",
        ];
        ibot(&[&flags[..], more].concat())
    };
    assert!(train(&undisturbed, &[]).status.success());
    assert!(train(&run, &["--keep", "3"]).status.success());
    // as if it had been killed after step 4: amid an epoch, with a checkpoint half written
    let run = Path::new(&run);
    fs::remove_dir_all(run.join("checkpoints/step-000000007")).unwrap();
    fs::rename(
        run.join("checkpoints/step-000000006"),
        run.join("checkpoints/step-000000006.tmp"),
    )
    .unwrap();
    for backbone in ["teacher.safetensors", "student.safetensors"] {
        fs::remove_file(run.join(backbone)).unwrap();
    }
    let output = ibot(&["train", "--resume", &run.to_string_lossy()]);
    let text = stdout(&output);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.starts_with("device  ") && text.contains("resuming from step 3"),
        "{text}"
    );
    let record = RunRecord::read(run).unwrap().unwrap();
    assert_eq!(record.backend, backend);
    assert!(!run.join("checkpoints/step-000000006.tmp").exists());
    assert_same(run, Path::new(&undisturbed), 7);
}

#[test]
fn ndarray_resumes_by_its_folder() {
    resumes_by_its_folder("ndarray", "");
}

/// Views that are rounded to bytes too.
#[test]
fn bytes_resume_by_their_folder() {
    resumes_by_its_folder("flex", "[augment]\nuint8 = true\n");
}

#[test]
fn wgpu_resumes_by_its_folder() {
    if crate::has_adapter() {
        resumes_by_its_folder("wgpu", "");
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let scratch = Scratch::new("damaged");
    let flags = ["--steps", "8", "--checkpoint-every", "2", "--keep", "3"];
    let train = scratch.train(&flags);
    assert!(ibot(&train).status.success());
    let run = scratch.0.join("run");
    let undisturbed = scratch.0.join("undisturbed");
    copy(&run, &undisturbed);
    let state = |step: usize| run.join(format!("checkpoints/step-{step:09}/state.safetensors"));
    let mut bytes = fs::read(state(8)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(state(8), bytes).unwrap();
    let manifest = run.join("checkpoints/step-000000006/checkpoint.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"seed\": 0", "\"seed\": 1")).unwrap();

    let output = ibot(&train);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    for said in [
        "step-000000008",
        "step-000000006",
        "checksum",
        "resuming from step 4",
    ] {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    assert_same(&run, &undisturbed, 8);

    for step in [4, 6, 8] {
        fs::write(state(step), b"short").unwrap();
    }
    refused(&train, &["step-000000008", "is damaged"]);
    assert!(state(4).exists(), "nothing is removed");
}

/// A whole checkpoint of another version's layout is neither passed over nor removed.
#[test]
fn a_checkpoint_of_another_format_is_refused() {
    let scratch = Scratch::new("format");
    let train = scratch.train(&["--steps", "4", "--checkpoint-every", "2", "--keep", "2"]);
    assert!(ibot(&train).status.success());
    let newest = scratch.0.join("run/checkpoints/step-000000004");
    let manifest = newest.join("checkpoint.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("\"format\": 1", "\"format\": 99");
    fs::write(&manifest, &text).unwrap();
    let sums = fs::read_to_string(newest.join("B3SUMS")).unwrap();
    let state = sums
        .lines()
        .find(|line| line.ends_with("state.safetensors"));
    let sums = format!(
        "{}  checkpoint.json\n{}\n",
        blake3::hash(text.as_bytes()),
        state.unwrap()
    );
    fs::write(newest.join("B3SUMS"), sums).unwrap();

    refused(&train, &["step-000000004", "format 99"]);
    assert!(manifest.exists(), "nothing is removed");
}

/// Other settings are refused by name, and taken with --override.
#[test]
fn changed_settings_are_named() {
    let scratch = Scratch::new("changed");
    let train = |more: &[&str]| scratch.train(&[&["--steps", "4"], more].concat());
    assert!(ibot(&train(&[])).status.success());
    refused(
        &train(&["--learning-rate", "0.01", "--seed", "3"]),
        &[
            "schedule.base_learning_rate: 0.0005 -> 0.01",
            "seed: 0 -> 3",
            "--override",
        ],
    );
    let run = scratch.path("run");
    refused(
        &["train", "--resume", &run, "--backend", "ndarray"],
        &["backend: flex -> ndarray"],
    );
    refused(
        &["train", "--resume", &scratch.path("images")],
        &["not a run folder (run.json is missing)"],
    );
    let longer = ["train", "--resume", &run, "--steps", "6", "--override"];
    let output = ibot(&longer);
    assert!(output.status.success() && stdout(&output).contains("steps: 4 -> 6"));
    assert_eq!(metrics(Path::new(&run)).len(), 6);
    // not even --override fits a checkpoint to another model or optimizer: the way out is said, and nothing changes
    for (other, kept) in [
        ("optimizer.name=sgd", "leave `optimizer.name` as it was"),
        ("method.n_cls_prototypes=8", "leave `[method]` as it was"),
    ] {
        let changed = ["train", "--resume", &run, "--set", other, "--override"];
        refused(&changed, &[kept, "checkpoint of step 6", "--pretrained"]);
    }
    // and the new settings are now the run's own
    assert!(stdout(&ibot(&["train", "--resume", &run])).contains("the run is complete"));
    // an image less
    fs::remove_file(scratch.0.join("images/odd/9.png")).unwrap();
    refused(&["train", "--resume", &run], &["10 images -> 9 images"]);
}

/// One folder, one process; what a killed one leaves behind locks nobody out.
#[test]
fn two_runs_exclude_each_other() {
    let scratch = Scratch::new("locked");
    let train = scratch.train(&["--steps", "1000000"]);
    let mut child = command(&train).stdout(Stdio::null()).spawn().unwrap();
    wait_for_a_step(&scratch.0.join("run"), 0);
    let pid = if cfg!(windows) {
        "another process".to_owned()
    } else {
        format!("process {}", child.id())
    };
    refused(&train, &[&pid, "trains in this folder", "--out"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let stopped = scratch.train(&["--steps", "1", "--override"]);
    assert!(ibot(&stopped).status.success());
}

/// No file may grow beyond so many blocks, as on a full disk: an error, and nothing before it is lost.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let scratch = Scratch::new("full");
    let flags = ["--steps", "900", "--checkpoint-every", "5"];
    assert!(ibot(&scratch.train(&flags)).status.success());
    let (run, undisturbed) = (scratch.0.join("run"), scratch.0.join("undisturbed"));
    fs::rename(&run, &undisturbed).unwrap();
    let state = undisturbed.join("checkpoints/step-000000900/state.safetensors");
    let state = fs::metadata(state).unwrap().len();
    let log = fs::metadata(undisturbed.join("metrics.jsonl"))
        .unwrap()
        .len();
    // no room for a checkpoint, then for one and not for the metrics
    for (limit, file) in [(state / 2, "step-"), (state + 2048, "metrics.jsonl")] {
        assert!(limit < log, "{limit} {log}");
        let limited = "trap '' XFSZ; ulimit -f $1; shift; exec \"$@\"";
        let output = Command::new("bash")
            .args(["-c", limited, "bash", &(limit / 1024).to_string()])
            .arg(env!("CARGO_BIN_EXE_ibot"))
            .args(scratch.train(&flags))
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(file) && message.contains("same command again to resume"),
            "{message}"
        );
        assert!(metrics_or_none(&run) < 900);
    }
    assert!(ibot(&scratch.train(&flags)).status.success());
    assert_same(&run, &undisturbed, 900);
}

/// Whole lines of metrics; a full disk cuts the last one.
fn metrics_or_none(run: &Path) -> usize {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.matches('\n').count()
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let scratch = Scratch::new("unwritable");
    let train = scratch.train(&["--steps", "1"]);
    fs::write(scratch.0.join("run"), "a file where the folder would be").unwrap();
    refused(&train, &["run"]);
    assert!(scratch.0.join("run").is_file());
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
