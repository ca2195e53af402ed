//! Commands that print.

use std::fs;

use crate::{Scratch, ibot, stdout};

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

#[test]
fn bench_times_the_loader() {
    let scratch = Scratch::new("loader");
    let pictures = scratch.pictures();
    let output = ibot(&[
        "bench",
        "--loader",
        "--data",
        &pictures,
        "--image-size",
        "32",
        "--seconds",
        "0.2",
    ]);
    assert!(output.status.success());
    let text = stdout(&output);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "one worker, and all: {text}");
    assert!(
        lines
            .iter()
            .all(|line| line["images_per_s"].as_f64().unwrap() > 0.0)
    );
}
