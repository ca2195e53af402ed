//! What a fine-tuning compares before it goes on, and that its best classifier is the one that its report names.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ibot::collective::LocalRanks;
use ibot::device::Selected;
use ibot::files::model::ModelOptions;
use ibot::finetune::{FinetuneConfig, FinetuneObserver, FinetuneRequest, HeldOut, finetune};

use crate::finetune::{Colors, colors};
use crate::{ibot, refused, stdout};

#[track_caller]
fn is_complete(arguments: &[String]) {
    let output = ibot(arguments);
    let said = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the run is complete"), "{said}");
}

fn with(flags: &[String], more: &[&str]) -> Vec<String> {
    let more = more.iter().map(ToString::to_string);
    flags.iter().cloned().chain(more).collect()
}

/// Neither has a tensor of another shape, so that nothing but the record tells them apart.
#[test]
fn another_input_is_another_run() {
    let colors = colors("input");
    let flags = colors.arguments("out", &["--epochs", "1"]);
    assert!(ibot(&flags).status.success());
    let (size, pixels) = (["--image-size", "32"], ["--max-pixels", "1000"]);
    let of_size = "input size: 16 -> 32";
    refused(&with(&flags, &size), &["another run", of_size, "--out"]);
    let both = with(&flags, &[size, pixels].concat());
    let of_pixels = "-> 1000";
    refused(&both, &["another run", of_size, "max_pixels: ", of_pixels]);
    is_complete(&with(&flags, &["--image-size", "16"]));

    // runs of earlier versions, which have not noted it, go on as before
    let config = colors.scratch.0.join("out/config.toml");
    let noted = fs::read_to_string(&config).unwrap();
    let earlier = |line: &&str| !line.starts_with("# input size") && !line.contains("max_pixels");
    let lines: Vec<&str> = noted.lines().filter(earlier).collect();
    assert_eq!(lines.len() + 2, noted.lines().count());
    fs::write(&config, lines.join("\n")).unwrap();
    is_complete(&both);
}

/// The file of a timm folder does not say how images become its input; its `config.json` and flags do.
#[test]
fn another_description_of_the_model_is_another_run() {
    let colors = colors("described");
    let timm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/timm");
    let folder = colors.scratch.0.join("timm");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(timm.join(name), folder.join(name)).unwrap();
    }
    let mut flags = colors.arguments("out", &["--epochs", "1"]);
    let model = flags.iter().position(|flag| flag == "--model").unwrap();
    flags[model + 1] = colors.file("timm");
    assert!(ibot(&flags).status.success());
    is_complete(&flags);
    let half =
        "normalization: mean 0.4 0.5 0.6, std 0.2 0.25 0.3 -> mean 0.5 0.5 0.5, std 0.5 0.5 0.5";
    refused(
        &with(&flags, &["--normalization", "half"]),
        &["another run", half],
    );
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    let other = text
        .replace("bicubic", "bilinear")
        .replace("\"crop_pct\": 0.9", "\"crop_pct\": 0.8");
    assert_ne!(other, text);
    fs::write(&config, other).unwrap();
    let changes = [
        "interpolation: bicubic -> bilinear",
        "part of the image: shorter 26 -> shorter 30",
    ];
    refused(&flags, &[&["another run"][..], &changes].concat());
    fs::write(&config, text).unwrap();
    is_complete(&flags);
}

struct Silent;

impl FinetuneObserver for Silent {}

#[test]
fn ranks_with_another_input_are_refused() {
    let colors = &colors("ranks");
    let request = |ranks: LocalRanks, image_size| FinetuneRequest {
        config: FinetuneConfig {
            epochs: 1,
            ..FinetuneConfig::default()
        },
        model: colors.model.clone().into(),
        options: ModelOptions {
            image_size: Some(image_size),
            ..ModelOptions::default()
        },
        data: colors.train.clone().into(),
        held_out: HeldOut::Share(0.2),
        folder: Default::default(),
        out: colors.file("out").into(),
        selected: Selected::Flex,
        collective: Arc::new(ranks),
    };
    let stop = AtomicBool::new(false);
    let ended: Vec<_> = std::thread::scope(|scope| {
        let ranks = LocalRanks::group(2).into_iter().zip([16, 32]);
        let started: Vec<_> = ranks
            .map(|(rank, side)| (request(rank, side), &stop))
            .map(|(request, stop)| scope.spawn(move || finetune(&request, stop, &mut Silent)))
            .collect();
        let ended = started.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    for ended in ended {
        let message = ended.unwrap_err().to_string();
        assert!(message.contains("model, its input, images"), "{message}");
    }
    assert!(!Path::new(&colors.file("out")).exists());
}

/// The images to measure on change under their names after the kill, so that the epochs which are repeated are not the best any
/// more, as they may not be on another device.
#[cfg(unix)]
#[test]
fn the_best_classifier_of_a_checkpoint_outlives_a_better_one_that_is_lost() {
    use ibot::files::checkpoint::Store;
    use ibot::files::model::read_card;
    use serde_json::Value;

    let colors = colors("lost");
    let recipe = [
        "--epochs",
        "300",
        "--learning-rate",
        "0.3",
        "--layer-decay",
        "0.9",
    ];
    let flags = colors.arguments("out", &[&recipe[..], &["--val", &colors.val]].concat());
    let out = colors.scratch.0.join("out");
    let file = |name: &str| out.join(name);
    let best = file("best.safetensors");
    let best_step = || read_card(&best).ok().flatten().map_or(0, |card| card.step);
    let top1 = |line: &Value| line["top1"].as_f64().unwrap();
    let epochs = || -> Vec<Value> {
        let text = fs::read_to_string(file("metrics.jsonl")).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    // what a classifier that calls all images the same reaches
    run_until(&flags, "-INT", || {
        epochs().iter().any(|line| top1(line) > 0.33)
    });
    let saved = Store::of_run(&out).steps().unwrap()[0];
    let better = |best: Value, next: Value| {
        if top1(&next) > top1(&best) {
            next
        } else {
            best
        }
    };
    let expected = epochs().into_iter().reduce(better).unwrap();
    let expected_step = expected["step"].as_u64().unwrap() as usize;
    assert_eq!(best_step(), expected_step);
    let bytes = fs::read(&best).unwrap();
    run_until(&flags, "-KILL", || best_step() > saved);
    assert!(fs::read(file("best-at-checkpoint.safetensors")).unwrap() == bytes);

    paint_all_alike(&colors);
    let output = ibot(&with(&flags, &["--json"]));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["best"]["epoch"], expected["epoch"]);
    for name in ["best.safetensors", "model.safetensors"] {
        assert!(fs::read(file(name)).unwrap() == bytes, "{name}");
    }
    assert!(!file("best-at-checkpoint.safetensors").exists());
    assert!(!message.contains("WARNING"), "{message}");
}

/// Starts a run, and sends it a signal once a condition holds.
#[cfg(unix)]
fn run_until(flags: &[String], signal: &str, is_met: impl Fn() -> bool) {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let mut child = crate::command(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !is_met() {
        assert!(started.elapsed() < Duration::from_secs(120), "not met");
        assert!(child.try_wait().unwrap().is_none(), "it is over");
        std::thread::sleep(Duration::from_millis(1));
    }
    crate::resume::signal(child.id(), signal);
    assert!(!child.wait().unwrap().success());
}

/// Any classifier has a third of them right.
#[cfg(unix)]
fn paint_all_alike(colors: &Colors) {
    for class in fs::read_dir(&colors.val).unwrap() {
        for image in fs::read_dir(class.unwrap().path()).unwrap() {
            image::RgbImage::new(24, 20)
                .save(image.unwrap().path())
                .unwrap();
        }
    }
}
