//! Half precision as a user asks for it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::resume::{assert_same, wait_for_a_step};
use crate::{Scratch, command, has_adapter, ibot, metrics, refused, stdout};

const STEPS: usize = 60;

/// Killed at any moment, a run in f16 goes on with the bits of one that was not, its loss scale among them.
fn goes_on(backend: &str) {
    let scratch = Scratch::new(&format!("f16-{backend}"));
    let flags = [
        "--precision",
        "f16",
        "--steps",
        "60",
        "--checkpoint-every",
        "5",
    ];
    let mut arguments = scratch.train(&flags);
    arguments[2] = backend.into();
    let output = ibot(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let (run, undisturbed) = (scratch.0.join("run"), scratch.0.join("undisturbed"));
    fs::rename(&run, &undisturbed).unwrap();
    let is_scaled = |line: &Value| line["loss_scale"].as_f64() > Some(0.0);
    assert!(metrics(&undisturbed).iter().all(is_scaled));
    for _ in 0..3 {
        let before = fs::metadata(run.join("metrics.jsonl")).map_or(0, |file| file.len());
        let mut child = command(&arguments).stdout(Stdio::null()).spawn().unwrap();
        // the start cuts the file to its last checkpoint
        wait_for_a_step(&run, before.saturating_sub(5 * 600));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(ibot(&arguments).status.success());
    assert_same(&run, &undisturbed, STEPS);
}

#[test]
fn a_killed_run_in_f16_goes_on() {
    goes_on("flex");
}

#[test]
fn a_killed_run_in_f16_goes_on_on_a_gpu() {
    if has_adapter() {
        goes_on("wgpu");
    }
}

/// The flag reaches the settings of the run, and the features of a model; what is not there is refused.
#[test]
fn each_command_has_it() {
    let scratch = Scratch::new("precision");
    let mut train = scratch.train(&["--precision", "bf16", "--steps", "3"]);
    assert!(ibot(&train).status.success());
    let run = scratch.path("run");
    let settings = fs::read_to_string(Path::new(&run).join("config.toml")).unwrap();
    assert!(settings.contains("precision = \"bf16\""), "{settings}");
    assert!(metrics(Path::new(&run))[0].get("loss_scale").is_none());

    let (images, model) = (scratch.images(), format!("{run}/teacher.safetensors"));
    let features = |precision: &str| {
        let out = scratch.path(&format!("{precision}.csv"));
        let output = ibot(&[
            "embed",
            "--model",
            &model,
            "--data",
            &images,
            "--out",
            &out,
            "--backend",
            "flex",
            "--precision",
            precision,
        ]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}{errors}", stdout(&output));
        fs::read_to_string(out).unwrap()
    };
    let [exact, f16, bf16] = ["f32", "f16", "bf16"].map(features);
    assert!(exact != f16 && exact != bf16 && f16 != bf16);

    if has_adapter() {
        train[2] = "wgpu".into();
        train[6] = scratch.path("other");
        refused(&train, &["--precision", "bf16", "use f16"]);
    }
}

/// What has no precision, or no peer in it, does not take the flag and ignore it.
#[test]
fn bench_refuses_what_it_would_ignore() {
    for (flags, said) in [
        (
            &["--kernels", "--precision", "f16"][..],
            "not with --kernels",
        ),
        (
            &["--roofline", "--cards", "--precision", "bf16"],
            "--roofline",
        ),
        (
            &["--against", "nowhere", "--precision", "f16"],
            "has f32 and bf16",
        ),
    ] {
        refused(
            &[&["bench", "--backend", "flex"], flags].concat(),
            &["--precision", said],
        );
    }
}

/// A file of half the size that every command reads, with features of its own weights.
#[test]
fn exported_weights_may_be_halves() {
    let scratch = Scratch::new("dtype");
    assert!(ibot(&scratch.train(&["--steps", "2"])).status.success());
    let (run, images) = (scratch.path("run"), scratch.path("images"));
    let size_of = |dtype: &str| {
        let out = scratch.path(&format!("{dtype}.safetensors"));
        let export = ["export", "--run", &run, "--dtype", dtype, "--out", &out];
        assert!(ibot(&export).status.success());
        let table = scratch.path(&format!("{dtype}.csv"));
        let embed = [
            "embed",
            "--model",
            &out,
            "--data",
            &images,
            "--out",
            &table,
            "--backend",
            "flex",
        ];
        let text = stdout(&ibot(&embed));
        assert!(text.contains("equal to those in the file"), "{text}");
        let values = ibot::files::read_safetensors(Path::new(&out)).unwrap();
        let weights = values
            .values()
            .map(|tensor| tensor.values.len())
            .sum::<usize>() as u64;
        let file = fs::metadata(&out).unwrap().len();
        (file, weights)
    };
    let [(whole, count), (f16, _), (bf16, _)] = ["f32", "f16", "bf16"].map(size_of);
    // offsets in the header have fewer digits
    assert!(
        (whole - f16).abs_diff(2 * count) < 256,
        "{whole} {f16} {count}"
    );
    assert!(f16.abs_diff(bf16) < 64);
    let onnx = scratch.path("model.onnx");
    refused(
        &[
            "export", "--run", &run, "--format", "onnx", "--dtype", "f16", "--out", &onnx,
        ],
        &["--dtype", "ONNX models are written in f32"],
    );
}
