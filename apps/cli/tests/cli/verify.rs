//! `ibot verify`: passes on a sound device, and fails on one whose shaders are wrong.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::{Scratch, command, gpu, ibot, stdout};

const SHADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shaders");

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

/// The arguments for the checks whose name holds `only`.
fn some_checks(scratch: &Scratch, backend: &str, only: &str) -> Vec<String> {
    let mut arguments = arguments(scratch, backend);
    arguments.extend(["--only", only].map(String::from));
    arguments
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
    assert!(text.contains("\n  layer_norm/forward "), "{text}");
    let report = report(&scratch);
    assert_eq!(report["passed"], true);
    assert_eq!(report["reopened"], 0);
    assert_eq!(report["kernels"], "wgsl");
    assert!(report["adapter"]["driver"].is_string());
    assert_eq!(report["subgroups"].as_array().unwrap().len(), 2);
    assert!(
        report["adapter"]["limits"]["binding_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 40);
    for check in checks {
        assert!(check["error"].as_f64().unwrap() <= check["bar"].as_f64().unwrap());
        assert!(check["numbers"].as_u64().unwrap() > 0);
        for tensor in check["tensors"].as_array().unwrap() {
            assert!(tensor["error"].as_f64().unwrap() <= tensor["bar"].as_f64().unwrap());
        }
    }
    // one grid has two sides of more workgroups than fit one
    let kernels = report["launched"].as_array().unwrap().iter();
    let most = kernels.filter_map(|kernel| kernel["most_workgroups"].as_u64());
    assert!(most.max().unwrap() > 65_535);
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
    let report = report(&scratch);
    assert!(report["checks"].as_array().unwrap().len() >= 40);
    let kernels = report["launched"].as_array().unwrap();
    let lanes = |name: &str| {
        let kernel = kernels.iter().find(|kernel| kernel["name"] == name);
        kernel.unwrap()["lanes"].as_u64()
    };
    assert_eq!(lanes("cross_entropy/forward"), Some(256));
}

/// The fastest tile of each class of products is found by the first process, kept in a file, and taken from it by the next.
#[test]
fn products_are_timed_once() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-times");
    let run = |timing: &str| {
        let mut command = command(&some_checks(&scratch, "wgpu", "products of 512 x 512 x 64"));
        command
            .env("IBOT_WORKGROUP", "256")
            .env("IBOT_LOG", "debug");
        command
            .env("HF_HOME", &scratch.0)
            .env("IBOT_TIME_TILES", timing);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stdout(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let folder = scratch.0.join("ibot");
    let said = run("0");
    assert!(!said.contains("products ") && !folder.exists(), "{said}");
    let class = "products Plain vectors 512 x 512 x 64: ";
    let said = run("1");
    assert!(said.contains(class), "{said}");
    let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
    let [file] = files.as_slice() else {
        panic!("{files:?}");
    };
    let text = || fs::read_to_string(file.path()).unwrap();
    let first = text();
    let content: serde_json::Value = serde_json::from_str(&first).unwrap();
    let timed = &content["products"]["Plain vectors 512 x 512 x 64"];
    let tile = timed["tile"].as_str().unwrap();
    assert!(timed["milliseconds"][tile].as_f64().unwrap() > 0.0);
    let said = run("1");
    assert!(!said.contains(class) && text() == first, "{said}");
    // a file that was cut off
    fs::write(file.path(), &first[..first.len() / 2]).unwrap();
    let said = run("1");
    for part in ["is no file of ibot's times", "made anew", class] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(serde_json::from_str::<serde_json::Value>(&text()).is_ok());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn the_cpu_is_compared_with_the_other_cpu_backend() {
    let scratch = Scratch::new("verify-flex");
    let output = ibot(&arguments(&scratch, "flex"));
    assert!(output.status.success(), "{}", stdout(&output));
    let report = report(&scratch);
    assert_eq!(report["reference"], "NdArray on the CPU");
    assert!(report["adapter"].is_null());
    assert_eq!(report["launched"].as_array().unwrap().len(), 0);
}

#[test]
fn a_report_on_some_checks_says_so() {
    let scratch = Scratch::new("verify-only");
    let output = ibot(&some_checks(&scratch, "flex", "layer norm, "));
    assert!(output.status.success(), "{}", stdout(&output));
    let report = report(&scratch);
    assert_eq!(report["only"], "layer norm, ");
    assert_eq!(report["checks"].as_array().unwrap().len(), 2);
    let output = ibot(&some_checks(&scratch, "flex", "no such check"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["no such check", "AdamW of 40 tensors"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// Runs with the shaders of this crate, one of them changed.
fn with_broken_shader(
    scratch: &Scratch,
    arguments: &[String],
    [shader, sound, broken]: [&str; 3],
) -> Output {
    let folder = scratch.0.join("shaders");
    copy(Path::new(SHADERS), &folder);
    let file = folder.join(shader);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(sound), "{shader} has no {sound}");
    fs::write(&file, text.replace(sound, broken)).unwrap();
    let mut command = command(arguments);
    command.env("IBOT_SHADERS", &folder).output().unwrap()
}

fn copy(source: &Path, destination: &Path) {
    fs::create_dir_all(destination).unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let to = destination.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
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
    let output = with_broken_shader(
        &scratch,
        &some_checks(&scratch, "wgpu", "targets"),
        [
            "target_potentials/rows.wgsl",
            "log(found[0].y)",
            "log(found[0].y) + 0.001",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("\nFAIL: "), "{}", stdout(&output));
    let report = report(&scratch);
    assert_eq!(report["passed"], false);
    assert_eq!(report["reopened"], 0);
    assert!(report["shaders"].is_string());
    let failed = failures(&report);
    assert_eq!(failed.len(), 3, "{failed:?}");
    for (name, reason) in failed {
        assert!(reason.starts_with("targets: number "), "{name}: {reason}");
    }
}

/// One fault is one failure: the checks that need the shader fail, and those after them run on a new device and pass.
#[test]
fn a_shader_that_does_not_compile_fails_the_checks_that_need_it_alone() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-syntax");
    let output = with_broken_shader(
        &scratch,
        &arguments(&scratch, "wgpu"),
        ["ema.wgsl", "let keep = ", "let keep := "],
    );
    assert_eq!(output.status.code(), Some(1));
    let report = report(&scratch);
    let failed = failures(&report);
    let (name, reason) = &failed[0];
    assert_eq!(name, "moving average of 40 tensors");
    assert!(reason.contains("shader does not compile"), "{reason}");
    let checks = report["checks"].as_array().unwrap().iter();
    let need_it = checks.filter(|check| {
        let kernels = check["kernels"].as_array().unwrap();
        kernels.iter().any(|kernel| kernel == "ema")
    });
    let need_it: Vec<_> = need_it.map(|check| &check["name"]).collect();
    let failed: Vec<_> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(failed, need_it);
    assert_eq!(
        failed,
        ["moving average of 40 tensors", "ten training steps"]
    );
    assert_eq!(report["reopened"], 2);
}

/// A template that does not fit its values is a fault that says so.
#[test]
fn a_misspelt_placeholder_fails() {
    if gpu::device().is_none() {
        return;
    }
    let scratch = Scratch::new("verify-placeholder");
    let output = with_broken_shader(
        &scratch,
        &some_checks(&scratch, "wgpu", "moving average"),
        ["ema.wgsl", "{{ rounds }}", "{{ round }}"],
    );
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
