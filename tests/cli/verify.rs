//! `ibot verify`: passes on a sound device, and fails on one whose shaders are wrong.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::{Scratch, command, gpu, ibot, stdout};

const SHADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");

fn report(scratch: &Scratch) -> serde_json::Value {
    let text = fs::read_to_string(scratch.path("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn arguments(scratch: &Scratch, backend: &str) -> Vec<String> {
    let out = scratch.path("report.json");
    ["verify", "--backend", backend, "--out", &out]
        .map(String::from)
        .into()
}

#[test]
fn a_sound_device_passes() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify");
    let output = ibot(&arguments(&scratch, "wgpu"));
    let text = stdout(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("\nPASS: "), "{text}");
    let report = report(&scratch);
    assert_eq!(report["passed"], true);
    assert_eq!(report["kernels"], "wgsl");
    assert!(report["adapter"]["driver"].is_string());
    assert!(
        report["adapter"]["limits"]["binding_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 21);
    for check in checks {
        assert!(check["error"].as_f64().unwrap() <= check["bar"].as_f64().unwrap());
        assert!(check["numbers"].as_u64().unwrap() > 0);
    }
}

/// What a GPU runs, on whatever device there is: workgroups of 256 lanes, and as many tensors a dispatch as it binds.
#[test]
fn the_kernels_of_a_gpu_pass() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-256");
    let mut command = command(&arguments(&scratch, "wgpu"));
    let output = command.env("IBOT_WORKGROUP", "256").output().unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
    let checks = report(&scratch)["checks"].as_array().unwrap().len();
    assert!(checks >= 21);
}

#[test]
fn the_cpu_is_compared_with_the_other_cpu_backend() {
    let scratch = Scratch::new("verify-flex");
    let output = ibot(&arguments(&scratch, "flex"));
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(report(&scratch)["reference"], "NdArray on the CPU");
    assert!(report(&scratch)["adapter"].is_null());
}

/// Runs with the shaders of this crate, one of them changed.
fn with_broken_shader(scratch: &Scratch, shader: &str, sound: &str, broken: &str) -> Output {
    let folder = scratch.0.join("shaders");
    copy(Path::new(SHADERS), &folder);
    let file = folder.join(shader);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(sound), "{shader} has no {sound}");
    fs::write(&file, text.replace(sound, broken)).unwrap();
    let mut command = command(&arguments(scratch, "wgpu"));
    command.env("IBOT_SHADERS", &folder).output().unwrap()
}

fn copy(source: &Path, destination: &Path) {
    fs::create_dir_all(destination).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let to = destination.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Which checks failed, with the reason of those that have one.
fn failures(report: &serde_json::Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["passed"] == false)
        .map(|check| {
            let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("reason"))
        })
        .collect()
}

#[test]
fn a_shader_that_is_a_little_wrong_fails() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-wrong");
    let shader = "target_potentials/rows.wgsl";
    let output = with_broken_shader(
        &scratch,
        shader,
        "log(found[0].y)",
        "log(found[0].y) + 0.001",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("\nFAIL: "), "{}", stdout(&output));
    let report = report(&scratch);
    assert_eq!(report["passed"], false);
    assert!(report["shaders"].is_string());
    let failed = failures(&report);
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    for expected in [
        "Sinkhorn targets, vectors",
        "centered targets",
        "patch loss, vectors",
    ] {
        assert!(names.contains(&expected), "{expected} is not in {names:?}");
    }
    assert!(!names.contains(&"attention"), "{names:?}");
}

#[test]
fn a_shader_that_does_not_compile_fails() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-syntax");
    let output = with_broken_shader(&scratch, "ema.wgsl", "let keep = ", "let keep := ");
    assert_eq!(output.status.code(), Some(1));
    let failed = failures(&report(&scratch));
    let (name, reason) = &failed[0];
    assert_eq!(name, "moving average of 40 tensors");
    assert!(reason.contains("shader does not compile"), "{reason}");
    assert!(
        failed
            .iter()
            .any(|(name, _)| name == "ten training steps: losses")
    );
}

/// A template that does not fit its values is a fault that says so.
#[test]
fn a_misspelt_placeholder_fails() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-placeholder");
    let output = with_broken_shader(&scratch, "ema.wgsl", "{{ rounds }}", "{{ round }}");
    assert_eq!(output.status.code(), Some(1));
    let (_, reason) = &failures(&report(&scratch))[0];
    assert!(reason.contains("placeholder"), "{reason}");
}

#[test]
fn an_unknown_choice_of_kernels_is_refused() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-choice");
    let mut command = command(&arguments(&scratch, "wgpu"));
    let output = command.env("IBOT_KERNELS", "fast").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["IBOT_KERNELS", "fast", "reference"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}
