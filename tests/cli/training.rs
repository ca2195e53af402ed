//! Runs from a folder to an exported backbone, on each backend.

use std::path::Path;

use crate::{Scratch, has_adapter, ibot, metrics, stdout};

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
    if has_adapter() {
        trains_on("wgpu");
    }
}

/// How often metrics are read changes no number, and each step has its line; also where the last one ends the run.
#[test]
fn metrics_are_read_together() {
    let scratch = Scratch::new("together");
    let pictures = scratch.pictures();
    let tiny = std::fs::read_to_string(scratch.path("tiny.toml")).unwrap();
    let train = |every: usize, rate: &str| {
        let (config, run) = (
            scratch.path("every.toml"),
            scratch.path(&format!("{every}-{rate}")),
        );
        let text = tiny.replace(
            "batch_size = 4",
            &format!("batch_size = 1\nmetrics_every = {every}"),
        );
        std::fs::write(&config, text).unwrap();
        let flags = [
            "--backend",
            "flex",
            "--steps",
            "25",
            "--learning-rate",
            rate,
        ];
        let train = [
            "train", "--data", &pictures, "--out", &run, "--config", &config,
        ];
        let output = ibot(&[&train[..], &flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut lines = metrics(Path::new(&run));
        for line in &mut lines {
            let line = line.as_object_mut().unwrap();
            for key in ["step_s", "data_wait_s", "images_per_s", "resident_mib"] {
                assert!(line.remove(key).is_some(), "{key}");
            }
        }
        let model = ibot::weights::read_safetensors(&Path::new(&run).join("student.safetensors"));
        (lines, model.unwrap(), said)
    };
    let (each, together) = (train(1, "0.001"), train(7, "0.001"));
    assert_eq!(each.0.len(), 25);
    assert!(each == together);
    // one of the first steps is not finite
    let (each, together) = (train(1, "1e38"), train(7, "1e38"));
    assert!(each.0.len() < 7, "{}", each.0.len());
    assert_eq!(each.0, together.0);
    assert!(each.1 == together.1);
    let step = format!("the state after step {}", each.0.len());
    assert!(
        each.2.contains(&step) && together.2.contains(&step),
        "{} {}",
        each.2,
        together.2
    );
}
