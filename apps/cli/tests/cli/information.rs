//! Commands that print.

use std::fs;

use serde_json::Value;

use crate::{Scratch, command, has_adapter, ibot, refused, stdout};

#[test]
fn prints_a_configuration_that_it_reads() {
    let scratch = Scratch::new("config");
    let output = ibot(&[
        "train",
        "--print-config",
        "--data",
        "x",
        "--preset",
        "stable-pretraining",
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

/// What is printed is what a run takes: no key of a preset or file is left that the one given would lose against.
#[test]
fn a_printed_configuration_has_the_key_that_counts() {
    let scratch = Scratch::new("rivals");
    let file = scratch.path("own.toml");
    let own = "epochs = 5\n[method]\nencoder_name = \"vit_tiny_patch16_224\"\n";
    fs::write(&file, own).unwrap();
    let printed = |more: &[&str]| {
        let demo = ["train", "--preset", "demo", "--print-config"];
        let output = ibot(&[&demo[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        stdout(&output).parse::<toml::Table>().unwrap()
    };
    let demo = printed(&[]);
    assert!(demo.contains_key("steps") && demo["method"].get("vit").is_some());
    let set = [
        "--set",
        "epochs=5",
        "--set",
        "method.encoder_name=vit_tiny_patch16_224",
    ];
    for more in [&set[..], &["--config", &file]] {
        let settings = printed(more);
        assert_eq!(settings["epochs"].as_integer(), Some(5), "{more:?}");
        assert!(!settings.contains_key("steps"), "{more:?}");
        assert_eq!(settings["method"].get("vit"), None, "{more:?}");
    }
    let longer = printed(&["--config", &file, "--set", "steps=7"]);
    assert_eq!(longer["steps"].as_integer(), Some(7));
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
    let json: Value = serde_json::from_str(&stdout(&ibot(&["devices", "--json"]))).unwrap();
    assert_eq!(
        json.as_array().unwrap().len(),
        ibot::device::list_adapters().unwrap().len()
    );
}

/// The flags of a step that takes no time.
const SMALL: [&str; 12] = [
    "bench",
    "--encoder",
    "vit_tiny_patch16_224",
    "--image-size",
    "32",
    "--batch-size",
    "1",
    "--n-cls-prototypes",
    "64",
    "--n-patch-prototypes",
    "32",
    "--steps=2",
];

fn bench(more: &[&str]) -> String {
    let output = ibot(&[&SMALL, more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    stdout(&output)
}

#[test]
fn bench_reports_medians_of_the_parts_of_a_step() {
    let report: Value = serde_json::from_str(&bench(&["--backend", "flex", "--json"])).unwrap();
    assert_eq!(report["steps"].as_array().unwrap().len(), 2);
    for key in ["forward_s", "backward_s", "optimizer_s", "ema_s", "total_s"] {
        let of = |step: &Value| step[key].as_f64().unwrap();
        let slowest = of(&report["steps"][0]).max(of(&report["steps"][1]));
        assert!(of(&report["median"]) > 0.0, "{key}: {report}");
        assert_eq!(of(&report["median"]), slowest, "the upper of two: {key}");
    }
    assert_eq!(report["gpu"], Value::Null);
    let table = bench(&["--backend", "flex", "--patch-size", "8"]);
    for part in ["forward", "backward", "optimizer", "EMA", "patches of 8"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn bench_counts_what_a_step_asks_of_a_gpu() {
    if !has_adapter() {
        return;
    }
    let count =
        || -> Value { serde_json::from_str(&bench(&["--backend", "wgpu", "--json"])).unwrap() };
    let report = count();
    let (gpu, traffic) = (&report["gpu"], &report["gpu"]["traffic"]);
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&traffic["launches"]) > 100.0, "{report}");
    assert!(number(&traffic["submits"]) >= 1.0, "{report}");
    assert!(
        number(&traffic["submits"]) < number(&traffic["launches"]),
        "{report}"
    );
    assert!(
        number(&traffic["host_reads"]) >= 1.0,
        "the losses: {report}"
    );
    assert!(
        number(&gpu["peak_in_use_mib"]) >= number(&gpu["at_rest_mib"]),
        "{report}"
    );
    assert!(
        number(&gpu["reserved_mib"]) >= number(&gpu["peak_in_use_mib"]),
        "{report}"
    );
    let [queued, handed_over, step] =
        ["queued_s", "handed_over_s", "step_s"].map(|key| number(&gpu["host"][key]));
    assert!(
        0.0 < queued && queued <= handed_over && handed_over <= step,
        "{report}"
    );
    let kernels = gpu["kernels"].as_array().unwrap();
    let own: f64 = kernels.iter().map(|of| number(&of["launches"])).sum();
    assert!(0.0 < own && own <= number(&traffic["launches"]), "{report}");
    let again = count();
    assert_eq!(again["gpu"]["traffic"]["launches"], traffic["launches"]);
}

#[test]
fn bench_predicts_a_step_from_numbers_cards_and_the_device() {
    let numbers = ["--roofline", "--tflops", "10", "--gbps", "100", "--json"];
    let report: Value = serde_json::from_str(&bench(&numbers)).unwrap();
    let parts = report["parts"].as_array().unwrap();
    let named = |name: &str| parts.iter().any(|part| part["part"] == name);
    assert!(
        ["qkv", "attention", "AdamW"].into_iter().all(named),
        "{report}"
    );
    assert_eq!(report["measured"], Value::Null);
    let table = bench(&["--roofline", "--cards"]);
    for part in ["H100", "M2", "| qkv", "**step**", "published"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let table = bench(&["--roofline", "--backend", "flex"]);
    for part in [
        "measured, of which 100",
        "| predicted / measured |",
        "| EMA |",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let zero = ["--roofline", "--tflops", "0", "--gbps", "100"];
    refused(&[&SMALL[..], &zero].concat(), &["--tflops", "above 0"]);
    let alone = ibot(&[&SMALL[..], &["--roofline", "--tflops", "10"]].concat());
    let message = String::from_utf8_lossy(&alone.stderr);
    assert!(
        !alone.status.success() && message.contains("--gbps"),
        "{message}"
    );
}

#[test]
fn bench_without_python_says_what_to_install() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/reference");
    let arguments = [&SMALL[..], &["--backend", "flex", "--against", folder]].concat();
    let mut bench = command(&arguments);
    let output = bench.env("IBOT_PYTHON", "no-such-python").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("pip install -r") && message.contains("requirements.txt"));
    refused(
        &[&SMALL[..], &["--backend", "flex", "--against", "nowhere"]].concat(),
        &["step.py", "is missing"],
    );
}

#[test]
fn bench_times_the_loader() {
    let scratch = Scratch::new("loader");
    let images = scratch.images();
    let flags = ["--loader", "--data", &images, "--seconds", "0.2", "--json"];
    let text = bench(&flags);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "one worker, and all: {text}");
    assert!(
        lines
            .iter()
            .all(|line| line["images_per_s"].as_f64().unwrap() > 0.0)
    );
    let bytes = |text: &str| -> u64 {
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        line["bytes_per_image"].as_u64().unwrap()
    };
    let as_bytes = bench(&[&flags[..], &["--uint8"]].concat());
    assert_eq!(bytes(&text), 4 * bytes(&as_bytes));
}

#[test]
fn an_api_that_is_none_is_refused_by_name() {
    for arguments in [&["devices"][..], &["verify", "--backend", "wgpu"]] {
        let output = command(arguments)
            .env("IBOT_API", "opencl")
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("IBOT_API = opencl: must be one of "),
            "{message}"
        );
    }
}
