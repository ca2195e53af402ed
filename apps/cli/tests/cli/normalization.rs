//! Images are normalized as the weights want it, or as a flag or key says.

use std::fs;
use std::path::Path;

use ibot::files::read_safetensors;

use crate::models::{ENCODER, write_encoder};
use crate::{Scratch, ibot, refused, stdout};

/// The features of the images, and what the command says of their normalization.
fn embedded(scratch: &Scratch, more: &[&str]) -> (Vec<f32>, String) {
    let (images, out) = (scratch.path("images"), scratch.path("features.safetensors"));
    let embed = [
        "embed",
        "--backend",
        "flex",
        "--image-size",
        "32",
        "--data",
        &images,
    ];
    let output = ibot(&[&embed[..], &["--out", &out], more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = stdout(&output);
    let line = text.lines().find(|line| line.starts_with("normalization "));
    let features = read_safetensors(Path::new(&out)).unwrap();
    let features = features.into_values().next().unwrap();
    (features.values, line.unwrap().to_owned())
}

#[test]
fn images_are_normalized_as_the_weights_want_it() {
    let scratch = Scratch::new("normalization");
    scratch.images();
    let [plain, network] =
        ["plain.safetensors", "network.safetensors"].map(|name| scratch.path(name));
    write_encoder(&plain, "", |_| ());
    write_encoder(&network, "teacher.backbone.", |_| ());
    let of = |file: &str, encoder: &str, more: &[&str]| {
        embedded(
            &scratch,
            &[&["--model", file, "--encoder", encoder], more].concat(),
        )
    };
    let (half, line) = of(&plain, ENCODER, &[]);
    assert!(
        line.contains("half (mean 0.5 0.5 0.5, std 0.5 0.5 0.5): timm's for vit_tiny"),
        "{line}"
    );
    let (asked, line) = of(&plain, ENCODER, &["--normalization", "imagenet"]);
    assert!(
        line.contains("imagenet (mean 0.485 ") && line.ends_with(": as requested"),
        "{line}"
    );
    assert_ne!(half, asked);
    let tagged = of(&plain, &format!("{ENCODER}.augreg_in21k"), &[]);
    let numbers = of(
        &plain,
        ENCODER,
        &["--normalization", "0.5,0.5,0.5/0.5,0.5,0.5"],
    );
    assert!(half == tagged.0 && half == numbers.0);
    // student and teacher are no weights of timm's
    let (of_network, line) = of(&network, ENCODER, &[]);
    assert!(
        line.contains("networks in training (teacher.backbone.*)"),
        "{line}"
    );
    assert_eq!(of_network, asked);
    let tagged = of(&network, &format!("{ENCODER}.augreg_in21k"), &[]);
    assert_eq!(tagged.0, half);
    let images = scratch.path("images");
    let embed = [
        "embed", "--data", &images, "--out", "x.npy", "--model", &plain,
    ];
    refused(
        &[&embed[..], &["--encoder", "vit_tiny_patch16_224.augreg"]].concat(),
        &[
            "no vit_tiny_patch16_224 weights with this tag",
            "augreg_in21k",
            "--normalization",
        ],
    );
    refused(
        &embed,
        &[
            "plain.safetensors",
            "--encoder",
            "such as vit_tiny_patch16_224 or deit_tiny_patch16_224 (suggested by its shapes)",
        ],
    );
    let wrong = ibot(&[&embed[..], &["--normalization", "imagent"]].concat());
    let message = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        message.contains("imagenet, half, clip, or MEAN/STD"),
        "{message}"
    );
}

/// Mean of red and deviation of blue that a run would have.
fn of_run(more: &[&str]) -> [f64; 2] {
    let print = ["train", "x", "--print-config"];
    let preset = ["--preset", "stable-pretraining"];
    let output = ibot(&[&print[..], &preset, more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table: toml::Table = stdout(&output).parse().unwrap();
    let augment = table["augment"].as_table().unwrap();
    [("mean", 0), ("std", 2)].map(|(key, at)| augment[key][at].as_float().unwrap())
}

#[test]
fn a_run_takes_the_normalization_of_its_weights() {
    let scratch = Scratch::new("run-normalization");
    let [plain, network] =
        ["plain.safetensors", "network.safetensors"].map(|name| scratch.path(name));
    write_encoder(&plain, "", |_| ());
    write_encoder(&network, "teacher.", |_| ());
    let (imagenet, half, clip) = ([0.485, 0.225], [0.5, 0.5], [0.48145467, 0.2757771]);
    let close = |found: [f64; 2], expected: [f64; 2]| {
        let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        assert!(
            off.fold(0.0, f64::max) < 1e-6,
            "{found:?}, not {expected:?}"
        );
    };
    let config = |text: &str| {
        let file = scratch.path("settings.toml");
        fs::write(&file, text).unwrap();
        file
    };
    // without weights it is the reference's, whatever the name
    let tagged = "vit_tiny_patch16_224.augreg_in21k";
    close(of_run(&["--encoder", tagged]), imagenet);
    let from = |file: &str, more: &[&str]| of_run(&[&["--pretrained", file], more].concat());
    close(from(&plain, &["--encoder", tagged]), half);
    close(from(&network, &["--encoder", ENCODER]), imagenet);
    close(
        from(&plain, &["--encoder", tagged, "--normalization", "clip"]),
        clip,
    );
    close(of_run(&["--normalization", "half"]), half);
    let named = config(&format!("[method]\nencoder_name = \"{tagged}\"\n"));
    close(from(&plain, &["--config", &named]), half);
    let keyed = config(&format!(
        "[method]\nencoder_name = \"{tagged}\"\n[augment]\nstd = [0.25, 0.25, 0.25]\n"
    ));
    close(from(&plain, &["--config", &keyed]), [0.5, 0.25]);
}

/// What a file of ibot's own says of itself stays, in all that is made of it.
#[test]
fn a_file_that_describes_itself_is_not_contradicted() {
    let scratch = Scratch::new("own-card");
    let train = scratch.train(&["--steps", "2", "--normalization", "half"]);
    assert!(ibot(&train).status.success());
    let (model, images) = (
        scratch.path("run/teacher.safetensors"),
        scratch.path("images"),
    );
    let (_, line) = embedded(&scratch, &["--model", &model]);
    assert!(
        line.contains("half (") && line.ends_with(": from the file"),
        "{line}"
    );
    let of_weights = of_run(&["--pretrained", &model]);
    assert_eq!(of_weights, [0.5, 0.5]);
    let embed = [
        "embed", "--data", &images, "--out", "x.npy", "--model", &model,
    ];
    for (flag, value) in [("--encoder", ENCODER), ("--normalization", "imagenet")] {
        let parts = [
            flag,
            "teacher.safetensors ",
            "by its metadata; leave this out",
        ];
        refused(&[&embed[..], &[flag, value]].concat(), &parts);
        let onnx = scratch.path("x.onnx");
        let export = [
            "export", "--format", "onnx", "--model", &model, "--out", &onnx,
        ];
        refused(&[&export[..], &[flag, value]].concat(), &parts);
    }
    embedded(
        &scratch,
        &[
            "--model",
            &model,
            "--encoder",
            "custom",
            "--normalization",
            "half",
        ],
    );
}
